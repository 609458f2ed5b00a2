#!/bin/bash
# Runs an MPI program on two emulated hosts on one machine: two network namespaces connected by a
# link with a given one-way delay (in milliseconds) and rate (in tc syntax). The ranks see two
# hosts: they share memory within a host and communicate over TCP between hosts.
#
#   scripts/two_hosts.sh [--delay 0.2] [--rate 1gbit] RANKS_PER_HOST PROGRAM ARGUMENT...
#
# Needs root (ip netns, tc). The namespaces are removed at the end. The link is a veth pair with
# netem. On kernels without netem, tbf limits the rate and scripts/delayed_cable.py forwards the
# packets.
#
# The ranks run on the MPICH in MPICH_ROOT (default build/venv: the package `mpich` of
# test/requirements.txt), whichever MPICH the program was linked with, since MPICH has a stable ABI.
# Debian's MPICH 4.0.2 (UCX over TCP) hangs in MPI_Finalize if one rank reaches it later than
# another.
set -euo pipefail

die() { echo "two_hosts: $*" >&2; exit 1; }

MPICH_ROOT=$(realpath "${MPICH_ROOT:-$(dirname "$0")/../build/venv}")
delay=0.2 rate=1gbit
while [[ "${1:-}" == --* ]]; do
    case "$1" in
    --delay) delay=$2 ;;
    --rate) rate=$2 ;;
    *) die "unknown option $1" ;;
    esac
    shift 2
done
[ $# -ge 2 ] || die "usage: two_hosts.sh [--delay MS] [--rate RATE] RANKS_PER_HOST PROGRAM ARG..."
[ "$(id -u)" = 0 ] || die "network namespaces require root"
[ -x "$MPICH_ROOT/bin/mpirun" ] || die "no MPICH in $MPICH_ROOT: run scripts/setup.sh test"
ranks=$1
shift

# Names unique to this run, so that several can run at once.
a=tgpt-a-$$ b=tgpt-b-$$ net=10.$((77 + $$ % 100)).$(($$ / 100 % 200))
work=$(mktemp -d)
carrier=
clean_up() {
    [ -z "$carrier" ] || kill "$carrier" 2>/dev/null || true
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

ip netns add "$a"
ip netns add "$b"
in_host() { ip netns exec "$@"; }
if in_host "$a" tc qdisc add dev lo root netem delay 1ms 2>/dev/null; then
    in_host "$a" tc qdisc del dev lo root
    ip link add cable netns "$a" type veth peer name cable netns "$b"
    limit=(netem delay "${delay}ms" rate "$rate" limit 100000)
else
    "$(dirname "$0")/delayed_cable.py" "${delay}e-3" "$a" "$b" &
    carrier=$!
    limit=(tbf rate "$rate" burst 256kb latency 200ms)
fi
# Waits up to 5 s for a command to print $1: the kernel needs a moment to detect the link.
wait_for() {
    for _ in {1..100}; do
        [ "$("${@:2}" 2>/dev/null)" != "$1" ] || return 0
        sleep 0.05
    done
    die "the link between the hosts did not come up"
}
connect() { # NAMESPACE ADDRESS
    wait_for cable in_host "$1" ls /sys/class/net --ignore=lo
    in_host "$1" ip link set lo up
    in_host "$1" ip addr add "$2/24" dev cable
    in_host "$1" ip link set cable up
    in_host "$1" tc qdisc add dev cable root "${limit[@]}"
}
connect "$a" "$net.1"
connect "$b" "$net.2"
wait_for 1 in_host "$a" cat /sys/class/net/cable/carrier
wait_for 1 in_host "$b" cat /sys/class/net/cable/carrier

# Runs a command on host a or b: in its network namespace, with its host name.
cat >"$work/on" <<EOF
#!/bin/sh
host=\$1
shift
exec ip netns exec "tgpt-\$host-$$" \\
    unshare --uts sh -c 'hostname "\$0"; exec "\$@"' "host-\$host" "\$@"
EOF
# Replaces ssh for mpirun: [OPTION...] ADDRESS COMMAND...
cat >"$work/ssh" <<EOF
#!/bin/bash
while [[ "\$1" == -* ]]; do shift; done
case "\$1" in
$net.1) host=a ;;
*) host=b ;;
esac
shift
exec "$work/on" "\$host" sh -c "\$*"
EOF
chmod +x "$work/on" "$work/ssh"

ln -s "$MPICH_ROOT/lib/libmpi.so.12" "$work/libmpich.so.12"
export LD_LIBRARY_PATH=$work:$MPICH_ROOT/lib:$MPICH_ROOT/lib/mpich
# TCP between the hosts: UCX would detect that they are one machine and use shared memory.
"$work/on" a "$MPICH_ROOT/bin/mpirun" \
    -genv MPIR_CVAR_CH4_NETMOD ofi -genv FI_PROVIDER tcp -genv FI_TCP_IFACE cable \
    -launcher ssh -launcher-exec "$work/ssh" -hosts "$net.1:$ranks,$net.2:$ranks" \
    -localhost "$net.1" -n $((2 * ranks)) "$@"
