# One computer, as process 1 of its own pid namespace: a disk of its own over this computer's system, the real SSH server.
# `sh computer.sh SYSTEM FOLDER NAME ADDRESS BITS HIDDEN...`; waits for a line on standard input before it has a network.
set -eu
. "$1"
place=$2 name=$3 address=$4 bits=$5
shift 5
own=$place/$name
over "$own/root" "$own/disk" "$@"
mkdir -p "$root/srv/team"
mount --bind "$place/shared" "$root/srv/team"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/ssh/sshd_config.d/*
cp -a "$own/etc/." "$root/etc/"
enter
hostname "$name"
echo here
read -r _
ip -batch - <<NETWORK
link set lo up
link set eth0 up
address add $address/$bits dev eth0
NETWORK
/usr/sbin/sshd -E /var/log/auth.log
until [ -s /run/sshd.pid ]; do sleep 0.02; done # it goes into the background before it listens
echo up
stay
