#!/bin/bash
# Runs an MPI program on two hosts that are one machine: two network namespaces joined by a cable (veth) of given delay
# and rate. The ranks see two hosts: memory is shared within one, between them are only messages over TCP.
#
#   scripts/two_hosts.sh [--delay 0.2ms] [--rate 1gbit] RANKS_PER_HOST PROGRAM ARGUMENT...
#
# Needs root (ip netns, tc). The namespaces are removed at the end. A kernel without netem limits the rate only (tbf).
#
# The ranks run on the MPICH in MPICH_ROOT (build/venv: the package `mpich` of test/requirements.txt), whichever MPICH the
# program was linked with: the binary interface is one. With Debian's 4.0.2 (UCX over TCP) MPI_Finalize waits for ever
# if one rank comes to it later than another.
set -euo pipefail

die() { echo "two_hosts: $*" >&2; exit 1; }

MPICH_ROOT=$(realpath "${MPICH_ROOT:-$(dirname "$0")/../build/venv}")
delay=0.2ms rate=1gbit
while [[ "${1:-}" == --* ]]; do
    case "$1" in
    --delay) delay=$2 ;;
    --rate) rate=$2 ;;
    *) die "unknown option $1" ;;
    esac
    shift 2
done
[ $# -ge 2 ] || die "usage: two_hosts.sh [--delay TIME] [--rate RATE] RANKS_PER_HOST PROGRAM ARGUMENT..."
[ "$(id -u)" = 0 ] || die "needs root for network namespaces"
[ -x "$MPICH_ROOT/bin/mpirun" ] || die "no MPICH in $MPICH_ROOT: run scripts/setup.sh test"
ranks=$1
shift

# Names of this run alone, so that several can run at once.
a=tgpt-a-$$ b=tgpt-b-$$ net=10.$((77 + $$ % 100)).$(($$ / 100 % 200))
work=$(mktemp -d)
clean_up() {
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

ip netns add "$a"
ip netns add "$b"
ip link add cable netns "$a" type veth peer name cable netns "$b"
connect() { # NAMESPACE ADDRESS
    ip netns exec "$1" ip link set lo up
    ip netns exec "$1" ip addr add "$2/24" dev cable
    ip netns exec "$1" ip link set cable up
    ip netns exec "$1" tc qdisc add dev cable root netem delay "$delay" rate "$rate" limit 100000 2>/dev/null ||
        ip netns exec "$1" tc qdisc add dev cable root tbf rate "$rate" burst 256kb latency 200ms
}
connect "$a" "$net.1"
connect "$b" "$net.2"
for host in "$a" "$b"; do # the kernel takes up to a second to see that the cable is plugged in
    for _ in {1..100}; do
        [ "$(ip netns exec "$host" cat /sys/class/net/cable/operstate)" != up ] || break
        sleep 0.05
    done
done

# Runs a command on host a or b: in its network, under its name.
cat >"$work/on" <<EOF
#!/bin/sh
host=\$1
shift
exec ip netns exec "tgpt-\$host-$$" unshare --uts sh -c 'hostname "\$0"; exec "\$@"' "host-\$host" "\$@"
EOF
# What mpirun takes for ssh: [OPTION...] ADDRESS COMMAND...
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
# Between the hosts TCP: the library's other way, UCX, would see that they are one machine and use its memory.
"$work/on" a "$MPICH_ROOT/bin/mpirun" -genv MPIR_CVAR_CH4_NETMOD ofi -genv FI_PROVIDER tcp -genv FI_TCP_IFACE cable \
    -launcher ssh -launcher-exec "$work/ssh" -hosts "$net.1:$ranks,$net.2:$ranks" -localhost "$net.1" -n $((2 * ranks)) "$@"
