// Package imports holds the rules by which the packages of this project may import
// each other; its test is the whole of it. docs/architecture.md tells the story.
package imports
