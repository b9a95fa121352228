"""Machines on a private network, on this one: each a namespace with an address, a home, a /tmp and an sshd of its own.

Linux, root, iproute2, util-linux, OpenSSH and rsync. All of it lives below one process in namespaces of its own, and is
gone when that has ended, however it ended: nothing stays on this machine, and nothing there reaches its network.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

NETWORK = "10.77.0"
DESK = f"{NETWORK}.1"
SHARED = Path("/mnt/shared")
"""What all machines see, as they would an NFS share."""
KEY = Path("/mnt/key")
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "/usr/sbin/sshd", "rsync")
INSIDE = "RAY_BILSTM_INSIDE"
OWN = ["--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--uts"]
SSHD = f"""\
HostKey {KEY}
AuthorizedKeysFile {KEY}.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""
BOOT = """\
set -e
hostname {name}
for folder in /tmp /dev/shm /run; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/sshd
printf '127.0.0.1 localhost\\n127.0.1.1 {name}\\n' > /mnt/{name}.hosts
mount --bind /mnt/{name}.hosts /etc/hosts
mount --bind /mnt/{name}.passwd /etc/passwd
ip link set lo up
until ip address show dev eth0 2>/dev/null | grep -q 'inet '; do sleep 0.1; done
ip route add default via {network}.1
exec /usr/sbin/sshd -D -f /mnt/sshd_config
"""


def missing() -> str | None:
    """Why machines cannot be made here."""
    if sys.platform != "linux" or os.geteuid():
        return "needs Linux and root"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"needs {', '.join(absent)}" if absent else None


def go_inside() -> None:
    """Begin this program again as the first process of namespaces of its own: a desk from which the machines are
    reached, with an address of its own, and an empty /tmp and /mnt."""
    if INSIDE not in os.environ:
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", *OWN, sys.executable, *sys.argv]
        sys.exit(subprocess.run(words, env=os.environ | {INSIDE: "1"}).returncode)
    for folder in ("/tmp", "/mnt", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    os.chmod("/tmp", 0o1777)
    SHARED.mkdir()
    os.environ["HOME"] = str(make_home("desk"))
    subprocess.run(["mount", "--bind", "/mnt/desk.passwd", "/etc/passwd"], check=True)
    ip("link set lo up")
    ip("link add switch type bridge")
    ip(f"address add {DESK}/24 dev switch")
    ip("link set switch up")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY], check=True)
    Path("/mnt/sshd_config").write_text(SSHD)


def make_home(name: str) -> Path:
    """A home for root, which may not hide the one here: Python may lie in it."""
    users = Path("/etc/passwd").read_text()
    Path(f"/mnt/{name}.passwd").write_text(
        re.sub(r"^(root:.*):[^:]*(:[^:]*)$", rf"\1:/mnt/{name}\2", users, flags=re.M)
    )
    home = Path("/mnt", name)
    home.mkdir()
    return home


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


class Machine:
    """One of them, from the first process on."""

    def __init__(self, number: int) -> None:
        self.name, self.address = f"node{number}", f"{NETWORK}.{10 + number}"
        self.home = make_home(self.name)
        boot = BOOT.format(name=self.name, network=NETWORK)
        self.process = subprocess.Popen(["unshare", *OWN, "bash", "-c", boot])
        while os.readlink(f"/proc/{self.process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.05)
        ip(f"link add {self.name} type veth peer name eth0 netns {self.process.pid}")
        ip(f"link set {self.name} master switch up")
        inside = ["nsenter", f"--target={self.process.pid}", "--net", "ip"]
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        subprocess.run([*inside, "address", "add", f"{self.address}/24", "dev", "eth0"], check=True)

    def cut_off(self) -> None:
        ip(f"link set {self.name} down")

    def plug_in(self) -> None:
        ip(f"link set {self.name} up")

    def run(self, command: str) -> str:
        """What it prints, over ssh."""
        options = ["-i", str(KEY), "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10"]
        words = ["ssh", *options, f"root@{self.address}", command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout
