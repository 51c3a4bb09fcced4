// Package operator serves the operator API of Mesos, version 1: what people and programs
// ask of an agent, by HTTP.
//
//	POST /api/v1                 a v1.Call, answered by a v1.Response, an empty body, or a stream
//	GET  /containers ...         the older endpoints, for reading only; legacy.go
//	GET  /metrics                the same metrics for Prometheus
//
// A call passes through, in this order:
//
//	who asks         401, 403                  subject.go
//	is it ready      503                       server.go
//	what is spoken   405, 400, 415, 406        negotiate.go
//	what is asked    400, 413, 501             decode.go
//	the answer       calls.go: the table from the type of a call to who answers it
//
// Requests and answers are JSON or protobuf, and streams are records (RecordIO) of either;
// the rules, and the codes, are those of Mesos. What is not in Mesos has numbers from 101
// on in operator.proto.
//
// Statistics are at most a second old (usages.go); the timestamp in them says when they were taken.
package operator
