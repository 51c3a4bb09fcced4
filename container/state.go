package container

// State says how far a container is in its life. The names are those of Mesos.
type State string

// The states. A launch goes through them in this order; from each of them a container
// can come to be Destroying, and from there it only goes.
const (
	Provisioning State = "PROVISIONING" // its root filesystem and its sandbox are made
	Preparing    State = "PREPARING"    // isolators say what they need; its init process is made
	Isolating    State = "ISOLATING"    // isolators act on the waiting init process
	Fetching     State = "FETCHING"     // what its command wants in the sandbox is fetched
	Running      State = "RUNNING"      // its command was executed
	Destroying   State = "DESTROYING"   // what it is made of is removed
	Ended        State = "ENDED"        // nothing is left but how it ended; not one of Mesos
)
