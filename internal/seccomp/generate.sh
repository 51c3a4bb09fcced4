#!/bin/sh
# Makes syscalls.txt, the numbers of the system calls of each architecture, from those that
# golang.org/x/sys/unix has from the kernel's headers. Run it with: go generate ./internal/seccomp
set -eu
cd "$(dirname "$0")"
unix=$(go list -m -f '{{.Dir}}' golang.org/x/sys)/unix
{
	for arch in amd64 386 arm64 arm riscv64 loong64; do
		sed -n "s/^\tSYS_\([A-Z0-9_]*\) *= *\([0-9]*\)\$/\1 $arch \2/p" "$unix/zsysnum_linux_$arch.go"
	done
	# The private calls of arm, which are not in the table of the others.
	echo 'BREAKPOINT arm 983041'
	echo 'CACHEFLUSH arm 983042'
	echo 'USR26 arm 983043'
	echo 'USR32 arm 983044'
	echo 'SET_TLS arm 983045'
	echo 'GET_TLS arm 983046'
} | awk '
	{ name = tolower($1); names[name] = 1; number[name, $2] = $3 }
	END {
		split("amd64 386 arm64 arm riscv64 loong64", arches)
		for (name in names) {
			line = name
			for (i = 1; i in arches; i++) line = line " " ((name, arches[i]) in number ? number[name, arches[i]] : "-")
			print line
		}
	}' | LC_ALL=C sort > syscalls.txt.new
{
	echo '# The columns: name amd64 386 arm64 arm riscv64 loong64. Made by generate.sh.'
	cat syscalls.txt.new
} > syscalls.txt
rm syscalls.txt.new
