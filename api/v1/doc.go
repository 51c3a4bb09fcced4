// Package v1 holds the messages in which the world speaks of containers: images,
// commands, resources, volumes, statistics.
//
// They are those of Apache Mesos' v1 API (package mesos.v1, and mesos.slave for the
// containerizer's own), as of 1.11 and what followed it until 2024, with the same
// names, types and numbers of fields: what was written for Mesos, as protobuf or as
// JSON, can be read here, and the other way round. Two things differ. Image has one
// type more, OCI. And ContainerConfig, which passes through several hands before it
// is complete, requires none of its fields. Messages of frameworks, executors and
// tasks are left out.
//
// The .proto files are the specification of each message; field by field they say
// what a value means. That a value is sensible (a path absolute, a union's member
// the one that its type names) is checked by whoever acts on it, not here.
//
// [Marshal] and [Unmarshal] are the JSON form of any of these messages. It is that
// of Mesos, which differs from the JSON mapping of protobuf itself: use them, not
// protojson.
//
// The Go code is generated from the .proto files and committed beside them. After a
// change, run
//
//	go generate ./api/v1
//
// which needs protoc (Debian's protobuf-compiler; the committed code is from 3.21.12)
// and takes the Go plugin at the version that go.mod names.
package v1

//go:generate sh generate.sh
