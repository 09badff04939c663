# Installs the fleet in the image, as deploy/README.md and broker-config/README.md have it: `sh install.sh RELEASES`, by chroot(8).
set -eu
PATH="$PATH:/opt/fleetcast/bin"
HUB=/var/lib/fleetcast-hub
/opt/fleetcast/bin/pip install --quiet --no-index --no-deps --force-reinstall /opt/vm/fleetcast-*.whl

useradd --system --user-group --home-dir $HUB --no-create-home fleetcast
install -d -m 0755 /etc/fleetcast /etc/fleetcast/nodes /etc/fleetcast/nodes/gate-17
(umask 077 && echo "only for a test" >/etc/fleetcast/online.passphrase)
fleetcast init $HUB --fleet plant --model press --broker mqtts://127.0.0.1:8883 --hub-url https://127.0.0.1:8443 \
  --cohort-nodes-min 1 --passphrase-file /etc/fleetcast/online.passphrase
cat >>$HUB/fleet.toml <<END
enrolment = "required"
settle_seconds = 2
END
fleetcast ca issue-server localhost --ip 127.0.0.1 --dir $HUB --passphrase-file /etc/fleetcast/online.passphrase
/opt/fleetcast/bin/python /opt/vm/releases.py "$1"
install -d -m 0700 /var/lib/fleetcast-relay /var/lib/fleetcast-relay/tls
fleetcast ca issue-client relay-1 --out /var/lib/fleetcast-relay/tls/relay-1 --dir $HUB --passphrase-file /etc/fleetcast/online.passphrase
cp $HUB/ca.crt /var/lib/fleetcast-relay/tls/
rm -r $HUB/keys # root, targets and team keys do not belong on this machine
chown -R fleetcast:fleetcast $HUB
chmod 0700 $HUB

cp -r $HUB/broker /etc/fleetcast/broker
cp /opt/vm/mosquitto.conf /etc/fleetcast/broker/
chown -R mosquitto /etc/fleetcast/broker
install -d /etc/systemd/system/mosquitto.service.d
cat >/etc/systemd/system/mosquitto.service.d/fleetcast.conf <<END
[Service]
WorkingDirectory=/etc/fleetcast/broker
ExecStart=
ExecStart=/usr/sbin/mosquitto -c mosquitto.conf
END

install -m 0644 /opt/vm/units/* /etc/systemd/system/
cat >/etc/systemd/system/channel.service <<END
[Unit]
Description=What the host asks for
[Service]
ExecStart=/usr/bin/python3 /opt/vm/channel.py
Restart=always
[Install]
WantedBy=multi-user.target
END
systemctl enable --quiet mosquitto channel fleetcast-hub
# What takes a minute to boot in emulation and tests nothing of ours, and what writes to the disk by itself.
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer \
  getty.target getty-static.service getty@tty1.service serial-getty@hvc0.service serial-getty@ttyS0.service \
  systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-journal-flush.service \
  systemd-udev-trigger.service systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-binfmt.service \
  modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
  proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service systemd-sysusers.service
printf 'virtio_console\nvirtio_rng\n' >/etc/modules-load.d/vm.conf # by name: without udev nothing else asks for them
install -d /etc/systemd/journald.conf.d
cat >/etc/systemd/journald.conf.d/console.conf <<END
[Journal]
Storage=volatile
ForwardToConsole=yes
TTYPath=/dev/hvc0
MaxLevelConsole=info
END
# Pages that no program has synced are written after a second or three: so some are on their way to the disk at each cut.
printf 'vm.dirty_writeback_centisecs = 100\nvm.dirty_expire_centisecs = 300\n' >/etc/sysctl.d/vm.conf
echo gate >/etc/hostname
echo "127.0.0.1 localhost gate" >/etc/hosts
echo "/dev/root / ext4 defaults 0 0" >/etc/fstab
echo 5f0c1d2e3b4a59687786a5b4c3d2e1f0 >/etc/machine-id # without one, systemd takes this for a first boot, and presets all units anew
passwd --delete root >/dev/null
