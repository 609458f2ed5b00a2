#!/usr/bin/env python3
"""Places the ranks of a grid of tensor x pipeline x data parallel ranks on the nodes of a torus, and writes the map in
the scheduler's form:

    scripts/rank_map.py --shape 48x6x48 --ranks-per-node 1 --tp 6 --pp 8 --format vcoord >vcoord
    mpiexec -vcoordfile vcoord ./train_gpt train --tp 6 --pp 8 ...             (PJM: a line per rank)

    scripts/rank_map.py --shape 4x6x2 --ranks-per-node 4 --tp 4 --pp 8 --format hostfile >nodes
    pjsub --mpi "max-proc-per-node=4,rank-map-bychip,rank-map-hostfile=nodes"  (PJM: a line per node)

    scontrol show hostnames | scripts/rank_map.py --hosts - --ranks-per-node 4 --tp 4 --pp 2 --format slurm >hosts
    SLURM_HOSTFILE=hosts srun --distribution=arbitrary ...                     (Slurm: a line per rank)

train_gpt counts rank = (replica * pp + stage) * tp + slice, and the map fills a node with ranks before it goes to the
next one. So it is an order of the nodes, in which
  - the slices of a stage lie on one node, where they fit: --tp divides --ranks-per-node. A larger --tp, a multiple of
    it, takes a block of neighbouring nodes;
  - each slice of a stage lies next to the same slice of the next stage, to which it sends;
  - replicas, which talk least, lie apart.
A block may have any shape; the blocks follow each other to and fro along the axes, so that each is a neighbour of the
one before. Of all shapes and orders of the axes the one with the fewest hops is taken. What it costs goes to stderr.

Coordinates are those of the job (PJM: 0 .. N-1 on each axis of "node=XxYxZ"). With :torus each axis closes into a ring
there; --mesh counts without that. Hosts of Slurm stand at the coordinates of --shape in the order of the list, the last
axis fastest; without --shape they are a line.
"""
import argparse
import itertools
import math
import sys


def distance(a, b, shape, torus):
    """Hops between two nodes."""
    return sum(min(abs(i - j), n - abs(i - j)) if torus else abs(i - j) for i, j, n in zip(a, b, shape))


def to_and_fro(shape, axes):
    """All points of a box in an order in which each is a neighbour of the one before; axes[0] runs fastest."""
    points = [()]
    for axis in axes:
        lines = (points if i % 2 == 0 else points[::-1] for i in range(shape[axis]))
        points = [point + (i,) for i, line in enumerate(lines) for point in line]
    place = [axes.index(axis) for axis in range(len(shape))]
    return [tuple(point[p] for p in place) for point in points]


def blocks_of(shape, size):
    """Shapes of blocks of `size` nodes that fill `shape`."""
    choices = [[d for d in range(1, n + 1) if n % d == 0] for n in shape]
    return [block for block in itertools.product(*choices) if math.prod(block) == size]


def orders(shape, block_size):
    """Candidates: orders of all nodes, block after block, each block's nodes in the same order."""
    for block in blocks_of(shape, block_size):
        grid = tuple(n // b for n, b in zip(shape, block))
        inside = to_and_fro(block, sorted(range(len(shape)), key=lambda axis: -block[axis]))
        for axes in itertools.permutations(range(len(shape))):
            yield [tuple(c * b + i for c, b, i in zip(corner, block, node))
                   for corner in to_and_fro(grid, axes) for node in inside]


def costs(order, grid, shape, torus):
    """Hops between the same slice of neighbouring stages: the most and all; hops between a slice and the next one of
    its stage, the ring closed: the most and all."""
    tp, pp, per_node = grid
    stage_hops, slice_hops = [0], [0]
    ranks = len(order) * per_node

    def hops(a, b):
        return distance(order[a // per_node], order[b // per_node], shape, torus)
    for rank in range(ranks):
        if rank // tp % pp + 1 < pp:
            stage_hops.append(hops(rank, rank + tp))
        slice_hops.append(hops(rank, rank // tp * tp + (rank + 1) % tp))
    return max(stage_hops), sum(stage_hops), max(slice_hops), sum(slice_hops)


def place(shape, tp, pp, per_node, torus=True):
    """The best order of the nodes, and its costs."""
    ranks = math.prod(shape) * per_node
    if tp % per_node and per_node % tp:
        raise ValueError(f"--tp {tp} and --ranks-per-node {per_node}: one must divide the other, or slices of one "
                         "stage share nodes with those of another")
    if ranks % (tp * pp):
        raise ValueError(f"--tp {tp} x --pp {pp} does not divide {ranks} ranks: {math.prod(shape)} nodes x {per_node}")
    best = None
    for order in orders(shape, max(1, tp // per_node)):
        cost = costs(order, (tp, pp, per_node), shape, torus)
        if best is None or cost < best[1]:
            best = order, cost
    if best is None:
        raise ValueError(f"no block of {tp // per_node} nodes fills {'x'.join(map(str, shape))}: choose another shape")
    return best


def whole(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def shape_of(text):
    shape = tuple(whole(n) for n in text.split("x"))
    if len(shape) > 3:
        raise ValueError
    return shape


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=shape_of, help="nodes along each axis: X, XxY or XxYxZ")
    parser.add_argument("--hosts", help="file with a host name a line, - for stdin (slurm)")
    parser.add_argument("--ranks-per-node", type=whole, default=4)
    parser.add_argument("--tp", type=whole, default=1)
    parser.add_argument("--pp", type=whole, default=1)
    parser.add_argument("--mesh", action="store_true", help="the axes do not close into rings")
    parser.add_argument("--format", choices=["vcoord", "hostfile", "slurm"], required=True)
    args = parser.parse_args()
    hosts = []
    if args.hosts:
        with sys.stdin if args.hosts == "-" else open(args.hosts, encoding="utf-8") as file:
            hosts = file.read().split()
    if (args.format == "slurm") != bool(hosts):
        parser.error("--format slurm needs --hosts with at least one host, the other formats take none")
    shape = args.shape or (len(hosts),)
    if shape == (0,):
        parser.error("--shape is needed")
    nodes = math.prod(shape)
    if hosts and len(hosts) != nodes:
        parser.error(f"{len(hosts)} hosts do not fill --shape {'x'.join(map(str, shape))}")
    try:
        order, cost = place(shape, args.tp, args.pp, args.ranks_per_node, torus=not args.mesh and bool(args.shape))
    except ValueError as error:
        parser.error(str(error))
    names = ["(" + ",".join(map(str, node)) + ")" for node in itertools.product(*map(range, shape))]
    name_of = dict(zip(itertools.product(*map(range, shape)), hosts or names))
    for node in order:
        for _ in range(1 if args.format == "hostfile" else args.ranks_per_node):
            print(name_of[node])
    ranks = nodes * args.ranks_per_node
    print(f"{ranks} ranks on {nodes} nodes: {args.tp} slices (tp) x {args.pp} stages (pp) x "
          f"{ranks // (args.tp * args.pp)} replicas; hops from stage to stage: at most {cost[0]}; "
          f"from slice to slice: at most {cost[2]}", file=sys.stderr)


if __name__ == "__main__":
    main()
