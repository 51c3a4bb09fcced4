#!/bin/sh
# Makes the *.pb.go from the *.proto beside this script. Run it with: go generate ./api/v1
set -eu
cd "$(dirname "$0")"

if ! command -v protoc >/dev/null; then
	echo "generate.sh: protoc is missing; install Debian's or Ubuntu's package protobuf-compiler" >&2
	exit 1
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/out"

go build -o "$tmp/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go

# The files are known as berth/api/v1/*.proto, wherever they lie: every Go program has
# one table of all .proto files in it, and a short name would collide there.
protoc --plugin="$tmp/protoc-gen-go" --proto_path=berth/api/v1=. \
	--go_out="$tmp/out" --go_opt=module=berth/api/v1 ./*.proto

# Only now touch the tree, so that a failure leaves it as it was.
rm -f ./*.pb.go
mv "$tmp"/out/*.pb.go .
