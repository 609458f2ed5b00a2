#!/bin/bash
# Runs an MPI program on two hosts that are one machine: two network namespaces joined by a cable (veth) of given delay
# and rate. The ranks see two hosts: memory is shared within one, between them are only messages over TCP.
#
#   scripts/two_hosts.sh [--delay 0.2ms] [--rate 1gbit] RANKS_PER_HOST PROGRAM ARGUMENT...
#
# Needs root (ip netns, tc). The namespaces are removed at the end. A kernel without netem limits the rate only (tbf).
set -euo pipefail

die() { echo "two_hosts: $*" >&2; exit 1; }

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

# What mpirun takes for ssh: HOST COMMAND..., in the namespace that has HOST's address.
cat >"$work/ssh" <<EOF
#!/bin/bash
while [[ "\$1" == -* ]]; do shift; done
host=\$1
shift
case "\$host" in
$net.1) exec ip netns exec $a sh -c "\$*" ;;
*) exec ip netns exec $b sh -c "\$*" ;;
esac
EOF
chmod +x "$work/ssh"
# UCX, under Debian's MPICH, would see that both hosts are one machine and use its memory: TCP only. And the cable only:
# with the loopback device as a second way between the ranks of a host, MPI_Finalize of MPICH 4.0.2 waits for ever.
ip netns exec "$a" mpirun -genv UCX_TLS tcp,self -genv UCX_NET_DEVICES cable -launcher ssh -launcher-exec "$work/ssh" -hosts "$net.1:$ranks,$net.2:$ranks" \
    -localhost "$net.1" -n $((2 * ranks)) "$@"
