#!/usr/bin/env python3
"""Places a grid of tensor-, pipeline- and data-parallel ranks on the nodes of a torus and writes
the placement in the scheduler's format:

    # PJM, one line per rank
    scripts/rank_map.py --shape 48x6x48 --ranks-per-node 1 --tp 6 --pp 8 --format vcoord >vcoord
    mpiexec -vcoordfile vcoord ./train_gpt train --tp 6 --pp 8 ...

    # PJM, one line per node
    scripts/rank_map.py --shape 4x6x2 --ranks-per-node 4 --tp 4 --pp 8 --format hostfile >nodes
    pjsub --mpi "max-proc-per-node=4,rank-map-bychip,rank-map-hostfile=nodes"

    # Slurm, one line per rank
    scontrol show hostnames | scripts/rank_map.py --hosts - --ranks-per-node 4 --tp 4 --pp 2 \\
        --format slurm >hosts
    SLURM_HOSTFILE=hosts srun --distribution=arbitrary ...

train_gpt numbers its ranks as (dp_rank * pp + stage) * tp + tp_rank, and each node is filled before
the next one. The placement is therefore an order of the nodes, such that
  - the tensor-parallel ranks of a stage share one node where --tp divides --ranks-per-node; a
    larger --tp, a multiple of --ranks-per-node, gets a block of neighbouring nodes;
  - each tensor-parallel rank is next to the same rank of the next stage, its communication partner;
  - data-parallel ranks, which communicate least, are far apart.
Blocks can have any shape. They follow each other in boustrophedon order along the axes, so that
consecutive blocks are neighbours. The script tries all block shapes and axis orders, takes the one
with the fewest hops and prints its cost to stderr.

Coordinates are relative to the job (PJM: 0 .. N-1 on each axis of "node=XxYxZ"). With :torus each
axis closes into a ring; --mesh disables the wrap-around links. Slurm hosts are assigned to the
coordinates of --shape in list order, last axis fastest; without --shape they form a line.
"""
import argparse
import itertools
import math
import sys


def distance(a, b, shape, torus):
    """Hops between two nodes."""
    return sum(min(abs(i - j), n - abs(i - j)) if torus else abs(i - j)
               for i, j, n in zip(a, b, shape))


def boustrophedon(shape, axes):
    """All points of a box, each next to the previous one; axes[0] varies fastest."""
    points = [()]
    for axis in axes:
        lines = (points if i % 2 == 0 else points[::-1] for i in range(shape[axis]))
        points = [point + (i,) for i, line in enumerate(lines) for point in line]
    place = [axes.index(axis) for axis in range(len(shape))]
    return [tuple(point[p] for p in place) for point in points]


def blocks_of(shape, size):
    """All block shapes of `size` nodes that tile `shape`."""
    choices = [[d for d in range(1, n + 1) if n % d == 0] for n in shape]
    return [block for block in itertools.product(*choices) if math.prod(block) == size]


def orders(shape, block_size):
    """Candidate node orders: block by block, with the same order inside each block."""
    for block in blocks_of(shape, block_size):
        grid = tuple(n // b for n, b in zip(shape, block))
        inside = boustrophedon(block, sorted(range(len(shape)), key=lambda axis: -block[axis]))
        for axes in itertools.permutations(range(len(shape))):
            yield [tuple(c * b + i for c, b, i in zip(corner, block, node))
                   for corner in boustrophedon(grid, axes) for node in inside]


def costs(order, grid, shape, torus):
    """Hops from each rank to the same tensor-parallel rank of the next stage (maximum and total),
    then to the next tensor-parallel rank of its own stage in a closed ring (maximum and total)."""
    tp, pp, per_node = grid
    stage_hops, tp_hops = [0], [0]
    ranks = len(order) * per_node

    def hops(a, b):
        return distance(order[a // per_node], order[b // per_node], shape, torus)
    for rank in range(ranks):
        if rank // tp % pp + 1 < pp:
            stage_hops.append(hops(rank, rank + tp))
        tp_hops.append(hops(rank, rank // tp * tp + (rank + 1) % tp))
    return max(stage_hops), sum(stage_hops), max(tp_hops), sum(tp_hops)


def place(shape, tp, pp, per_node, torus=True):
    """The best node order and its cost."""
    ranks = math.prod(shape) * per_node
    if tp % per_node and per_node % tp:
        raise ValueError(f"--tp {tp} and --ranks-per-node {per_node}: one must divide the other; "
                         "otherwise ranks of different stages share a node")
    if ranks % (tp * pp):
        raise ValueError(f"--tp {tp} x --pp {pp} does not divide the {ranks} ranks "
                         f"({math.prod(shape)} nodes x {per_node})")
    best = None
    for order in orders(shape, max(1, tp // per_node)):
        cost = costs(order, (tp, pp, per_node), shape, torus)
        if best is None or cost < best[1]:
            best = order, cost
    if best is None:
        raise ValueError(f"--tp {tp}: no block of {tp // per_node} nodes tiles "
                         f"{'x'.join(map(str, shape))}; choose another shape")
    return best


def positive(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def shape_of(text):
    shape = tuple(positive(n) for n in text.split("x"))
    if len(shape) > 3:
        raise ValueError
    return shape


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=shape_of, help="nodes along each axis: X, XxY or XxYxZ")
    parser.add_argument("--hosts", help="file with one host name per line, or - for stdin (slurm)")
    parser.add_argument("--ranks-per-node", type=positive, default=4,
                        help="ranks on each node (default 4)")
    parser.add_argument("--tp", type=positive, default=1, help="tensor-parallel ranks per stage")
    parser.add_argument("--pp", type=positive, default=1, help="pipeline stages")
    parser.add_argument("--mesh", action="store_true", help="no wrap-around links")
    parser.add_argument("--format", choices=["vcoord", "hostfile", "slurm"], required=True,
                        help="PJM: vcoord, hostfile; Slurm: slurm")
    args = parser.parse_args()
    hosts = []
    if args.hosts:
        with sys.stdin if args.hosts == "-" else open(args.hosts, encoding="utf-8") as file:
            hosts = file.read().split()
    if (args.format == "slurm") != bool(hosts):
        parser.error("--format slurm requires --hosts with at least one host; "
                     "the other formats take no --hosts")
    shape = args.shape or (len(hosts),)
    if shape == (0,):
        parser.error("--shape is required")
    nodes = math.prod(shape)
    if hosts and len(hosts) != nodes:
        parser.error(f"--shape {'x'.join(map(str, shape))} has {nodes} nodes, --hosts {len(hosts)}")
    try:
        order, cost = place(shape, args.tp, args.pp, args.ranks_per_node,
                            torus=not args.mesh and bool(args.shape))
    except ValueError as error:
        parser.error(str(error))
    names = ["(" + ",".join(map(str, node)) + ")" for node in itertools.product(*map(range, shape))]
    name_of = dict(zip(itertools.product(*map(range, shape)), hosts or names))
    for node in order:
        for _ in range(1 if args.format == "hostfile" else args.ranks_per_node):
            print(name_of[node])
    ranks = nodes * args.ranks_per_node
    print(f"{ranks} ranks on {nodes} nodes: tp {args.tp} x pp {args.pp} x "
          f"dp {ranks // (args.tp * args.pp)}; maximum hops: {cost[0]} between stages, "
          f"{cost[2]} within a tensor-parallel group", file=sys.stderr)


if __name__ == "__main__":
    main()
