//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/agent"
	"berth/container"
)

// agentFlags are the flags of `berth agent` alone.
type agentFlags struct {
	http                         agent.HTTP
	imageGC, recover, configFile string
	logFormat, loggingLevel      string
	completedRetention           time.Duration
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
	f.StringVar(&a.loggingLevel, "logging_level", "info", "what is logged: debug, info, warning or error, and what is worse")
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
	read := flags.of(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options, err := read()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		options.Hangups, options.Reload = hangups(), readAgain
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(garbage)
		}
		return agent.Run(ctx, options)
	}
	return cmd
}

// garbage is how much of it, in percent of what is in use, an agent lets come together: it mostly
// waits, and is to be small meanwhile. GOGC says otherwise.
const garbage = 40

// of adds the flags to the agent's command, and returns what makes options of them.
func (a *agentFlags) of(cmd *cobra.Command) (read func() (agent.Options, error)) {
	config := configured(cmd, storeFlags, launchFlags)
	a.add(cmd.Flags())
	fromFlags := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := fromFlags(cmd, args); err != nil {
			return err
		}
		return fromFile(cmd.Flags(), a.configFile)
	}
	return func() (agent.Options, error) {
		options, err := a.options(cmd.Flags())
		options.Engine = *config
		return options, err
	}
}

// readAgain reads the command line of this process, its environment and --config as they
// are now.
func readAgain() (options agent.Options, err error) {
	cmd, flags := &cobra.Command{}, agentFlags{}
	read := flags.of(cmd)
	if err := cmd.ParseFlags(os.Args[2:]); err != nil {
		return options, err
	}
	if err := cmd.PreRunE(cmd, nil); err != nil {
		return options, err
	}
	return read()
}

func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}

// options are those of the agent, but for the engine's.
func (a *agentFlags) options(f *pflag.FlagSet) (o agent.Options, err error) {
	o = agent.Options{HTTP: a.http, Version: version, Level: new(slog.LevelVar), Changeable: agent.Changeable{CompletedRetention: a.completedRetention, Flags: inForce(f)}}
	handler := &slog.HandlerOptions{Level: o.Level}
	switch a.logFormat {
	case "text":
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, handler))
	case "json":
		o.Log = slog.New(slog.NewJSONHandler(os.Stderr, handler))
	default:
		return o, fmt.Errorf("--log_format %q: %w: known are text and json", a.logFormat, container.ErrInvalid)
	}
	var known bool
	if o.LoggingLevel, known = loggingLevels[strings.ToLower(a.loggingLevel)]; !known {
		return o, fmt.Errorf("--logging_level %q: %w: known are debug, info, warning and error", a.loggingLevel, container.ErrInvalid)
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

var loggingLevels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "error": slog.LevelError}

// inForce are the values of the flags.
func inForce(f *pflag.FlagSet) map[string]string {
	values := make(map[string]string)
	f.VisitAll(func(flag *pflag.Flag) { values[flag.Name] = flag.Value.String() })
	delete(values, "help")
	return values
}
