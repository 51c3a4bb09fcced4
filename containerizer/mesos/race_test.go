//go:build linux && race

package mesos

func init() { raceDetector = true }
