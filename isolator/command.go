package isolator

import (
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
)

// ResolveCommand combines what a container was asked to execute with the entrypoint
// and the command of its image; both are nil without one.
//
// A CommandInfo that says something follows Mesos's table (sh = shell, E/C =
// entrypoint/command not empty):
//
//	sh value argv   E=0 C=0   E=0 C=1      E=1 C=0    E=1 C=1
//	0  0     0      error     C            E          E C
//	0  0     1      error     C[0] argv    E argv     E argv
//	0  1     *      value, with argv as all of the arguments, argv[0] included
//	1  0     *      error
//	1  1     *      sh -c value
//
// The arguments of a person at a command line (image_arguments, entrypoint) follow
// Docker's rule: they replace the image's command and are appended to the entrypoint,
// and without an entrypoint they are the command.
//
// The error is of class ErrInvalid.
func ResolveCommand(config *v1.ContainerConfig, entrypoint, cmd []string) (*Command, error) {
	command := config.GetCommandInfo()
	if !says(command) {
		return dockerCommand(config, entrypoint, cmd)
	}
	switch value, argv := command.GetValue(), command.GetArguments(); {
	case command.GetShell() && value == "":
		return nil, fmt.Errorf("%w: the command is for the shell, but has no value", container.ErrInvalid)
	case command.GetShell():
		return &Command{Path: "sh", Args: []string{"sh", "-c", value}}, nil
	case value != "":
		if len(argv) == 0 {
			argv = []string{value}
		}
		return &Command{Path: value, Args: argv}, nil
	case len(entrypoint) > 0:
		return words(entrypoint, argv)
	case len(cmd) > 0:
		return words(cmd[:1], argv)
	default:
		return nil, errNothing
	}
}

// says reports whether a command says what to execute. Its shell is true by default: that
// alone, in a message without anything else, says nothing.
func says(command *v1.CommandInfo) bool {
	switch {
	case command == nil:
		return false
	case command.GetValue() != "" || len(command.GetArguments()) > 0:
		return true
	}
	return command.GetShell() && (command.Shell != nil || command.Value != nil)
}

var errNothing = fmt.Errorf("%w: nothing to execute: the image has neither entrypoint nor command, and none was given", container.ErrInvalid)

func dockerCommand(config *v1.ContainerConfig, entrypoint, cmd []string) (*Command, error) {
	if config.Entrypoint != nil {
		entrypoint, cmd = nil, nil
		if config.GetEntrypoint() != "" {
			entrypoint = []string{config.GetEntrypoint()}
		}
	}
	if args := config.GetImageArguments(); len(args) > 0 {
		cmd = args
	}
	return words(entrypoint, cmd)
}

// words makes a command of the words of two lists, the first of which is the program.
func words(first, rest []string) (*Command, error) {
	all := append(append([]string{}, first...), rest...)
	if len(all) == 0 || all[0] == "" {
		return nil, errNothing
	}
	return &Command{Path: all[0], Args: all}, nil
}
