# What is behind an instance, as process 1 of its own pid namespace. Its console is standard output and error.
# `sh node.sh SYSTEM OWN EFS HOSTS ENGINE NAME ADDRESS FAULT HIDDEN...`: OWN is the node's folder, with `root`, its
# volume `disk`, and `given`, which the room writes into while the node is on.
set -eu
. "$1"
own=$2 efs=$3 hosts=$4 engine=$5 name=$6 address=$7 fault=$8
shift 8
exec 2>&1
over "$own/root" "$own/disk" "$@"
mkdir -m 700 "$root/run/room" "$root/run/efs"
mount --bind "$own/given" "$root/run/room"
mount --bind "$efs" "$root/run/efs"
mount --bind "$hosts" "$root/etc/hosts"
if [ ! -e "$root/etc/an-image" ]; then # what an image is made with, once
    rm -rf "$root"/etc/ssh/ssh_host_* "$root"/etc/ssh/sshd_config.d/* "$root/var/lib/cloud"
    cp "$root/usr/share/openssh/sshd_config" "$root/etc/ssh/"
    grep -q ^sshd: "$root/etc/passwd" || echo 'sshd:x:105:65534::/run/sshd:/usr/sbin/nologin' >> "$root/etc/passwd"
    install -m 755 "$own/given/mount.nfs4" "$root/sbin/mount.nfs4"
    cp "$own/given/environment" "$root/etc/environment"
    : > "$root/etc/fstab"
    echo "$name" > "$root/etc/hostname"
    : > "$root/etc/an-image"
fi
enter
hostname "$(cat /etc/hostname)" # as a system's own first program does; cloud-init writes it when it boots first
echo "[$name] booting"
case $fault in
never)
    echo 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)'
    stay
    ;;
slow:*) sleep "${fault#slow:}" ;;
esac
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
/usr/bin/python3 -I /run/room/imds.py "$address"
case $engine in
tiny)
    boot() { /usr/bin/python3 -I /run/room/tiny.py "$1"; }
    ;;
cloud-init)
    boot() {
        case $1 in
        first) stages='init,--local init' ;;
        last) stages='modules,--mode=config modules,--mode=final' ;;
        esac
        for stage in $stages; do
            ( IFS=,; exec /usr/bin/python3 -I /usr/bin/cloud-init $stage )
        done
    }
    mkdir -p /var/lib/cloud/seed/nocloud /etc/cloud/cloud.cfg.d
    cp /run/room/user-data /run/room/meta-data /var/lib/cloud/seed/nocloud/
    cp /run/room/cloud.cfg /etc/cloud/cloud.cfg.d/99-room.cfg
    mount -a || :
    ;;
esac
boot first
key=/etc/ssh/ssh_host_ed25519_key
[ -e "$key" ] || key=/etc/ssh/ssh_host_ecdsa_key
echo '-----BEGIN SSH HOST KEY KEYS-----'
cat "$key.pub"
echo '-----END SSH HOST KEY KEYS-----'
case $fault in
another-key)
    key=/run/another
    ssh-keygen -qt ed25519 -N '' -f "$key"
    ;;
esac
[ "$fault" = no-ssh ] || /usr/sbin/sshd -E /var/log/auth.log -o "ListenAddress=$address" -o "HostKey=$key"
boot last
echo "[$name] is up"
stay
