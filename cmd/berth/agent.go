//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/agent"
	"berth/container"
)

// agentFlags are the flags of `berth agent` alone.
type agentFlags struct {
	http                                    agent.HTTP
	imageGC, recover, logFormat, configFile string
	completedRetention                      time.Duration
}

func (a *agentFlags) add(f *pflag.FlagSet) {
	f.StringVar(&a.configFile, "config", "", "`FILE` in TOML with flags by their names; what is given as a flag or in the environment goes before")
	f.StringVar(&a.imageGC, "image_gc_config", "", "when to remove images: `JSON`, or file:///PATH or /PATH of a file with it (default: never)")
	f.StringVar(&a.http.Address, "http_address", "", "`HOST:PORT` to answer on beside the socket; loopback, or with TLS")
	f.StringVar(&a.http.CertFile, "tls_cert_file", "", "certificate of the agent, in PEM")
	f.StringVar(&a.http.KeyFile, "tls_key_file", "", "its key, in PEM")
	f.StringVar(&a.http.ClientCA, "tls_client_ca_file", "", "authorities, in PEM, whose certificates clients show who they are with")
	f.StringVar(&a.http.Credentials, "http_credentials", "", "`FILE` with names and secrets of clients, as JSON")
	f.StringVar(&a.http.ACLs, "acls", "", "what clients by TCP may do: `JSON`, or file:///PATH or /PATH of a file with it (default: nothing)")
	f.DurationVar(&a.completedRetention, "completed_retention", time.Hour, "how long the result and the sandbox of an ended container are kept")
	f.StringVar(&a.recover, "recover", "reconnect", "reconnect: take up again what runs; cleanup: remove all containers of earlier agents")
	f.StringVar(&a.logFormat, "log_format", "text", "text or json")
}

func agentCommand() *cobra.Command {
	var flags agentFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run containers for others until SIGTERM, and look after them",
		Long: `Answer the operator API on RUNTIME_DIR/agent.sock until SIGTERM: launch containers
and look after them, also after those of the agent before. Containers run on when it ends.
Remove images when the disk fills up, if --image_gc_config says when.`,
		Args: cobra.NoArgs,
	}
	config := configured(cmd, storeFlags, launchFlags)
	flags.add(cmd.Flags())
	fromFlags := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := fromFlags(cmd, args); err != nil {
			return err
		}
		return fromFile(cmd.Flags(), flags.configFile)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options, err := flags.options(cmd.Flags())
		if err != nil {
			return err
		}
		options.Engine = *config
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return agent.Run(ctx, options)
	}
	return cmd
}

// options are those of the agent, but for the engine's.
func (a *agentFlags) options(f *pflag.FlagSet) (o agent.Options, err error) {
	o = agent.Options{HTTP: a.http, CompletedRetention: a.completedRetention, Flags: inForce(f), Version: version, Level: new(slog.LevelVar)}
	handler := &slog.HandlerOptions{Level: o.Level}
	switch a.logFormat {
	case "text":
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, handler))
	case "json":
		o.Log = slog.New(slog.NewJSONHandler(os.Stderr, handler))
	default:
		return o, fmt.Errorf("--log_format %q: %w: known are text and json", a.logFormat, container.ErrInvalid)
	}
	switch a.recover {
	case "reconnect":
	case "cleanup":
		o.Cleanup = true
	default:
		return o, fmt.Errorf("--recover %q: %w: known are reconnect and cleanup", a.recover, container.ErrInvalid)
	}
	if a.completedRetention < 0 {
		return o, fmt.Errorf("--completed_retention %v: %w: it is a time from now on", a.completedRetention, container.ErrInvalid)
	}
	if a.imageGC != "" {
		o.ImageGC, err = agent.ParseImageGC(a.imageGC)
	}
	return o, err
}

// secretFlags have, or may have, credentials in their values.
var secretFlags = []string{"docker_config", "default_container_info"}

// inForce are the flags for whoever asks the agent, without what is secret.
func inForce(f *pflag.FlagSet) map[string]string {
	values := make(map[string]string)
	f.VisitAll(func(flag *pflag.Flag) { values[flag.Name] = flag.Value.String() })
	for _, name := range secretFlags {
		if values[name] != "" {
			values[name] = "(redacted)"
		}
	}
	delete(values, "help")
	return values
}
