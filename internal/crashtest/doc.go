// Package crashtest proves that nothing that can happen to a process or to a disk
// breaks the store and the provisioner. It is tests only.
//
// An operation is something that berth does: a pull, a provision, a prune (the table is in
// operations_linux_test.go). To each of them happens, at each of its steps as package
// disk sees them:
//
//   - a fault: the step fails as on a full or broken disk (faults_linux_test.go);
//   - kill -9, in a process of its own (kill_linux_test.go);
//   - a power cut: the file system below is copied there and then, and the copy is what
//     the machine finds after it was switched on again (powercut_linux_test.go).
//
// A disk that is really full is in full_linux_test.go, processes that work in one
// directory at the same time in processes_linux_test.go.
//
// After each of these the same holds: an error tells what happened, the next process
// needs no help, "check" finds nothing, the operation succeeds when it is tried again,
// and then every file and mount is as if nothing had happened.
//
// What is random comes from a seed, which a failure names.
//
//	BERTH_TEST_SEED  the seed; without it the same one every time, under soak another one each time
//	BERTH_TEST_SOAK  1: every step, every fault, many more power cuts
package crashtest
