//go:build linux

// Embed runs a container as a part of this program, and prints how it ended.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/engine"
)

func main() {
	config := engine.DefaultConfig()
	flag.StringVar(&config.WorkDir, "work_dir", config.WorkDir, "directory of images")
	flag.StringVar(&config.RuntimeDir, "runtime_dir", config.RuntimeDir, "directory of records")
	flag.StringVar(&config.LauncherDir, "launcher_dir", "bin", "directory of berth-init")
	image := flag.String("image", "docker.io/library/busybox:latest", "what to run ARG... from")
	flag.Parse()
	ended, err := run(context.Background(), config, *image, flag.Args())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("exit status", ended.ExitCode())
}

func run(ctx context.Context, config engine.Config, image string, args []string) (ended container.Termination, err error) {
	berth, err := engine.Open(ctx, config)
	if err != nil {
		return ended, err
	}
	defer func() { err = errors.Join(err, berth.Close()) }()
	if err := berth.Recover(ctx); err != nil {
		log.Print(err) // what other programs left behind need not stop this one
	}
	img, imageErr := engine.ParseImage(image, "")
	id, idErr := container.ParseID(fmt.Sprintf("embedded-%d", os.Getpid()))
	if err := errors.Join(imageErr, idErr); err != nil {
		return ended, err
	}
	info := &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum(), Mesos: &v1.ContainerInfo_MesosInfo{Image: img}}
	if err := berth.Launch(ctx, id, containerizer.Request{
		Config: &v1.ContainerConfig{ContainerInfo: info, ImageArguments: args},
		Stdio:  [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
		Keeper: containerizer.Foreground,
	}); err != nil {
		return ended, err
	}
	return berth.Wait(ctx, id)
}
