# Read by shells that are process 1 of namespaces of their own: another system, over this computer's.

# `over ROOT DISK HIDDEN...`: this computer's system at ROOT, what is written goes to DISK. Its folders `upper` and `work`
# are there; `home` and `tmp` are what the other system has of its own from the first. HIDDEN is seen empty there.
over() {
    root=$1 disk=$2
    shift 2
    mount -t overlay overlay -o "lowerdir=${LAYERS:+$LAYERS:}/,upperdir=$disk/upper,workdir=$disk/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for device in null zero full random urandom tty; do
        : > "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s fd/0 "$root/dev/stdin"
    ln -s fd/1 "$root/dev/stdout"
    ln -s fd/2 "$root/dev/stderr"
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
    rm -rf "$disk/tmp"
    mkdir -m 1777 "$disk/tmp"
    mount --bind "$disk/tmp" "$root/tmp"
    mount --bind "$disk/tmp" "$root/var/tmp"
    mount --bind "$disk/home" "$root/home"
}

# From here on `/` is what `over` has made.
enter() {
    cd "$root"
    mkdir -p .outside
    pivot_root . .outside
    umount -l .outside
    rmdir .outside
}

# Whatever process 1 is there for goes on by itself.
stay() {
    exec >/dev/null 2>&1 </dev/null
    while :; do
        sleep 1000 # whoever waits for a child takes away those of the dead, too
    done
}
