// Package storetest is the conformance suite of store.Store: a new store is done when
// Run is green for it. It also has a store of its own, Memory, for the tests of those who
// use stores; it passes the suite, too.
//
// A store under test comes with the source of its images, into which the suite
// publishes what it then gets. Images are made of Layers, tars of one file with a
// content that does not compress.
package storetest
