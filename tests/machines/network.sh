# What computers share, as process 1 of a pid namespace that ends with its standard input: a network, and one disk.
# `sh network.sh FOLDER MIB`: whatever it has on disks lies in memory, over that folder, and nobody outside sees it.
set -eu
mount -t proc proc /proc
mount -t tmpfs -o mode=755 computers "$1"
mkdir "$1/shared"
mount -t tmpfs -o "mode=755,size=$2m" shared "$1/shared"
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
echo ready
exec cat
