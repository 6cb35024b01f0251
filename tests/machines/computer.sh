# One computer, as process 1 of its own pid namespace: a disk of its own over this computer's system, the real SSH server.
# `sh computer.sh FOLDER NAME ADDRESS BITS HIDDEN...`; waits for a line on standard input before it has a network.
set -eu
place=$1 name=$2 address=$3 bits=$4
shift 4
own=$place/$name
root=$own/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$own/disk/upper,workdir=$own/disk/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind /dev "$root/dev"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
for hidden in "$@" /root /media /mnt; do
    [ ! -d "$root$hidden" ] || mount -t tmpfs -o mode=700 hidden "$root$hidden"
done
mount -t tmpfs -o mode=755 run "$root/run"
mkdir "$root/run/sshd"
# A kernel's own id, of each boot another.
cat /proc/sys/kernel/random/uuid > "$root/run/boot_id"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"
rm -rf "$own/disk/tmp"
mkdir -m 1777 "$own/disk/tmp"
mount --bind "$own/disk/tmp" "$root/tmp"
mount --bind "$own/disk/tmp" "$root/var/tmp"
mount --bind "$own/disk/home" "$root/home"
mkdir -p "$root/srv/team"
mount --bind "$place/shared" "$root/srv/team"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/ssh/sshd_config.d/*
cp -a "$own/etc/." "$root/etc/"
cd "$root"
mkdir -p .outside
pivot_root . .outside
umount -l .outside
rmdir .outside
hostname "$name"
echo here
read -r _
ip -batch - <<NETWORK
link set lo up
link set eth0 up
address add $address/$bits dev eth0
NETWORK
/usr/sbin/sshd -E /var/log/auth.log
echo up
exec >/dev/null 2>&1 </dev/null
while :; do
    sleep 1000 # whoever waits for a child takes away those of the dead, too
done
