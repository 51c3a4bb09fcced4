// Package calls makes a new process that does what only a process with one thread can do,
// and executes a program: a list of system calls that are made ready before the fork.
// Between that and the execution no Go code may run that allocates or locks.
package calls
