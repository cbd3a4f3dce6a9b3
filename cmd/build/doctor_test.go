package main

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestDoctorText shows what the doctor says of hosts that are hard to come by.
func TestDoctorText(t *testing.T) {
	ubuntu := userns.Facts{
		Kernel: "6.8.0-31-generic", UID: 1000, GID: 1000, Capabilities: "0000000000000000", Seccomp: "0", NoNewPrivs: "0", AppArmor: "unconfined",
		MaxUserNamespaces: "63000", UnprivilegedClone: "1", AppArmorRestrict: "1", Container: "none", UserMap: "0 0 4294967295",
		NewUIDMap: "/usr/bin/newuidmap", NewGIDMap: "/usr/bin/newgidmap", SubUIDs: "100000+65536", SubGIDs: "100000+65536",
	}
	denied := "cannot use a user namespace: make the mounts private: permission denied"
	appArmor := "kernel.apparmor_restrict_unprivileged_userns is 1; try: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	notRoot := verdict{Mode: "root", Problem: "cannot make namespaces as root: this process is not uid 0", Hint: "run it with sudo"}
	noChroot := verdict{Mode: "chroot", Problem: "cannot change the root folder: this process is not uid 0 with CAP_SYS_CHROOT"}

	docker := ubuntu
	docker.UID, docker.GID, docker.Capabilities, docker.Seccomp, docker.AppArmor = 0, 0, "00000000a80425fb", "2", "docker-default (enforce)"
	docker.Container, docker.Masked = "docker", []string{"/proc/acpi", "/proc/kcore"}
	docker.NewUIDMap, docker.NewGIDMap, docker.SubUIDs, docker.SubGIDs = "missing", "missing", "none", "none"
	forbidden := "the seccomp profile of this container may forbid it; try: docker run --security-opt seccomp=unconfined"

	ldap := ubuntu
	ldap.AppArmorRestrict, ldap.SubUIDs, ldap.SubGIDs, ldap.NewUIDMap = "", "none", "none", "/usr/bin/newuidmap, on a file system mounted nosuid"

	for name, c := range map[string]struct {
		seen   look
		choice choice
	}{
		"ubuntu": {look{ubuntu, []verdict{notRoot, {Mode: "subids", Problem: denied, Hint: appArmor}, {Mode: "single", Problem: denied, Hint: appArmor}, noChroot}}, choice{}},
		"docker": {look{docker, []verdict{
			{Mode: "root", Problem: "cannot make namespaces as root: this process has no CAP_SYS_ADMIN", Hint: "docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined"},
			{Mode: "subids", Problem: "cannot create a user namespace: operation not permitted", Hint: forbidden},
			{Mode: "single", Problem: "cannot create a user namespace: operation not permitted", Hint: forbidden},
			{Mode: "chroot", Works: true},
		}}, choice{Mode: "chroot", Root: sandbox.RootChroot}},
		"ldap": {look{ldap, []verdict{
			notRoot,
			{Mode: "subids", Problem: "cannot map subordinate ids: /etc/subuid has no range for user ann", Hint: "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ann"},
			{Mode: "single", Works: true}, noChroot,
		}}, choice{Mode: "single", Root: sandbox.RootFlat, NoLayers: "mount the root: upper fs not supported"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := newReport(&c.seen, &c.choice, "/store").print(&out); err != nil {
				t.Fatal(err)
			}
			file := "testdata/doctor/" + name + ".txt"
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), out.String()); d != "" {
				t.Error(d)
			}
		})
	}
}
