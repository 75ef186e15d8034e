#!/usr/bin/env bash
# Subject memory: what the kernel may spend on data in sockets, and what it does when memory is short.
#
# Two kinds of kernel memory, often confused:
# - a socket itself (the socket, its file, its inode): about 4.5 KB of slab for one idle connection, measured as half
#   of the 9 KB of both ends over loopback. No sysctl bounds it but the descriptor limits.
# - data in its queues: pages counted against tcp_mem. An idle connection has none.

# Kernel memory of one idle connection, in bytes. Measured: bench/capacity. (A test holds both figures and those of
# crates/midge/src/capacity.rs together.)
readonly CONNECTION_KERNEL_BYTES=4500
# The broker's own memory of one idle connection with one subscription, in bytes. Measured: bench/capacity.
readonly CONNECTION_USER_BYTES=380
readonly PAGE_BYTES=4096

knobs_memory() {
    local total idle sum ends=1 left most pressure pages
    # Both ends, if both are here.
    if $LOAD_GENERATOR; then ends=2; fi
    idle=$((CONNECTIONS * (ends * CONNECTION_KERNEL_BYTES + CONNECTION_USER_BYTES)))
    if total=$(memory_bytes); then
        sum="$CONNECTIONS × ($ends × $CONNECTION_KERNEL_BYTES bytes in the kernel + $CONNECTION_USER_BYTES in the broker) = $(human $idle) for idle connections"
        # A tenth is for the system and for what the connections say.
        if ((idle * 10 > total * 9)); then
            by_hand "memory" "$(human "$total")" "$(human $((idle * 10 / 9)))" "$sum, and a tenth of the memory for everything else. Fewer connections, or more memory."
        else
            report ok "memory" "$(human "$total")" "" "$sum."
        fi

        # Pressure at one page for each connection (the least that queued data is charged), the end at two (one in each
        # direction), but never more than half of what idle connections leave.
        left=$((total > idle ? total - idle : 0))
        most=$((left / 2 / PAGE_BYTES))
        pages=$((2 * ends * CONNECTIONS))
        if ((pages > most)); then pages=$most; fi
        pressure=$((pages / 2))
        sysctl_setting net.ipv4.tcp_mem min "$((pressure * 3 / 4)) $pressure $pages" "Pages of queued data of all TCP sockets: relaxed below, shrinking windows above, the end. One page for each connection's data in each direction, but no more than half of what is left of $(human "$total") after idle connections ($(human $idle)): $pages pages = $(human $((pages * PAGE_BYTES))). At the end the kernel drops received data and connections stall."
    fi

    sysctl_setting vm.swappiness max 1 "An idle session is exactly what the kernel likes to swap out, and its keep-alive brings it back: a fault of milliseconds on a thread that serves thousands of others. 1: only when nothing else is left."
    sysctl_setting vm.overcommit_memory not "2 0" "2 counts address space that is never touched. The rings' receive buffers and tables are reserved in full and touched as they are needed."
}
