# Boots user data with this computer's own system: in an overlay of it that is gone afterwards, with the real cloud-init
# and the real SSH server, twice. `unshare -mupf sh boot.sh FOLDER DEBS`: in FOLDER are `user-data`, the portal's `key`
# and `known`; Debian packages in the folder DEBS are unpacked over the overlay, if it is given.
set -eu
given=$1 debs=${2:-}
place=$given/overlay
mkdir "$place"
mount -t tmpfs boot "$place"
mkdir "$place/upper" "$place/work" "$place/root"
root=$place/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$root"
for package in ${debs:+"$debs"/*.deb}; do
    dpkg-deb --fsys-tarfile "$package" | tar --keep-directory-symlink -x -C "$root"
done
rm -rf "$root"/etc/ssh/ssh_host_* "$root/var/lib/cloud"
mkdir -p "$root/var/lib/cloud/seed/nocloud" "$root/etc/cloud/cloud.cfg.d" "$root/etc/ssh/sshd_config.d" "$root/shared"
[ -f "$root/etc/ssh/sshd_config" ] || cp "$root/usr/share/openssh/sshd_config" "$root/etc/ssh/"
grep -q ^sshd: "$root/etc/passwd" || echo 'sshd:x:105:65534::/run/sshd:/usr/sbin/nologin' >> "$root/etc/passwd"
cp "$given/user-data" "$root/var/lib/cloud/seed/nocloud/"
echo 'instance-id: i-1' > "$root/var/lib/cloud/seed/nocloud/meta-data"
# Nothing that only a virtual machine's disk or network has, and no locale, which a small system cannot make.
printf '%s\n' 'datasource_list: [NoCloud]' 'network: {config: disabled}' 'locale: false' \
    > "$root/etc/cloud/cloud.cfg.d/90_boot.cfg"
cp "$given/key" "$given/known" "$root/root/"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs boot "$root/run"
mkdir "$root/run/sshd"
cat > "$root/root/boot" <<'INSIDE'
set -eu
for round in first second; do
    for stage in 'init --local' 'init' 'modules --mode=config' 'modules --mode=final'; do
        python3 -I /usr/bin/cloud-init $stage > /root/said 2>&1 || { cat /root/said; exit 1; }
    done
done
/usr/sbin/sshd -t
/usr/sbin/sshd -p 2299 -o ListenAddress=127.0.0.1 -o PidFile=/run/sshd/pid -E /root/sshd.log
trap 'kill "$(cat /run/sshd/pid)"' EXIT
enter() {
    who=$1
    shift
    ssh -F none -i /root/key -p 2299 -o UserKnownHostsFile=/root/known -o StrictHostKeyChecking=yes -o BatchMode=yes \
        -o IdentitiesOnly=yes -o SendEnv=COXSWAIN_RUN -o ConnectionAttempts=20 "$who@127.0.0.1" "$@"
}
chmod 600 /root/key
export COXSWAIN_RUN=a-run
enter coxswain sh -s < /root/asks
! enter root true 2>/dev/null
for client in ssh /usr/bin/ssh; do  # what the node's user has in files is nobody else's matter
    [ "$($client -G a-name | grep '^user ')" = 'user root' ]
done
INSIDE
cp "$given/asks" "$root/root/asks"
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /bin/sh /root/boot
