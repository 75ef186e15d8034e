#!/usr/bin/env bash
# Subject conntrack: the firewall's memory of connections, of which the broker's are none of its business.
#
# A full table drops packets of new connections, silently but for one kernel log line. The remedy is not a larger table
# but no tracking for the broker's ports. Two warnings, and the reason why `apply` does this only when it is named:
# - Untracked packets are not `established` to a stateful firewall. It needs rules that accept the broker's ports in
#   both directions by port.
# - Address translation works by tracking: a port published by a container runtime or moved by DNAT must stay tracked.

# The packet filter's program. With --root: that root's own.
nft() { "$ROOT/usr/sbin/nft" "$@"; }

readonly BYPASS_TABLE=midge_notrack

# Clients reach the broker from outside (prerouting) or from this host (output); over loopback each packet passes both.
# Packets from a port of ours that come in from outside are of other brokers, whose connections stay tracked.
bypass_rules() {
    local list="{ ${PORTS//,/, } }"
    cat <<RULES
table inet $BYPASS_TABLE {
    comment "midge ports $PORTS"
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        tcp dport $list notrack
        iifname "lo" tcp sport $list notrack
    }
    chain output {
        type filter hook output priority raw; policy accept;
        tcp sport $list notrack
        oifname "lo" tcp dport $list notrack
    }
}
RULES
}

# The ports of the table that is there, or nothing.
bypassed_ports() {
    [[ -x $ROOT/usr/sbin/nft ]] || return 0
    { nft list table inet $BYPASS_TABLE 2>/dev/null || true; } | sed -n 's/.*comment "midge ports \([0-9,]*\)".*/\1/p' | head -n 1
}

knobs_conntrack() {
    local maximum count now why="Ports $PORTS without tracking: no table to fill, and less work for each packet. Firewall rules must then accept them by port, in both directions."
    if ! maximum=$(sysctl_value net.netfilter.nf_conntrack_max); then
        report ok "tracking" "not in this kernel" "" "Nothing is tracked."
        return
    fi
    count=$(sysctl_value net.netfilter.nf_conntrack_count) || count=0
    now=$(bypassed_ports)
    if [[ $now == "$PORTS" ]]; then
        report ok "bypass" "ports $now" "" "$why"
    elif [[ $count == 0 ]]; then
        report ok "tracking" "no connection tracked" "" "The table is empty: no rule of this host asks for tracking. Check again once there are connections."
    elif [[ ! -x $ROOT/usr/sbin/nft ]]; then
        by_hand "bypass" "$count connections tracked" "ports $PORTS untracked" "There is no nft here to do it with (package nftables)."
        table_size "$count"
    elif [[ $ACTION == check ]] || $DRY_RUN; then
        report change "bypass" "${now:+ports }${now:-none}" "ports $PORTS" "$count of $maximum entries used. $why"
    elif ! record table "$BYPASS_TABLE" none "$PORTS"; then
        report refused "bypass" "" "" "Not changed: it cannot be recorded in $STATE."
    elif { [[ -z $now ]] || nft delete table inet $BYPASS_TABLE; } 2>/dev/null && bypass_rules | nft -f - 2>/dev/null; then
        report changed "bypass" "${now:+ports }${now:-none}" "ports $PORTS" "$why"
    else
        if [[ -z $(bypassed_ports) ]]; then record table "$BYPASS_TABLE" || true; fi
        report refused "bypass" "${now:+ports }${now:-none}" "ports $PORTS" "nft did not take the rules: no permission, or a kernel without nf_tables."
        table_size "$count"
    fi
}

# The second best: a table that is large enough. An entry is made for each connection, not for each packet.
table_size() { # table_size COUNT
    sysctl_setting net.netfilter.nf_conntrack_max min $((CONNECTIONS + CONNECTIONS / 4 + 65536)) "The second best where tracking must stay: $CONNECTIONS connections, a quarter for closed ones that linger, and 65536 for everything else ($1 are tracked now)."
}

undo_table() { # undo_table TABLE OLD NEW
    local now
    now=$(bypassed_ports)
    if [[ $now != "$3" ]]; then
        report note "$1" "${now:-gone}" "" "Left as it is: somebody has changed it since."
        $DRY_RUN || record table "$1" || true
    elif $DRY_RUN; then
        report change "$1" "ports $now" "removed" ""
    elif nft delete table inet "$1" 2>/dev/null; then
        report changed "$1" "ports $now" "removed" ""
        record table "$1" || true
    else
        report refused "$1" "ports $now" "removed" "nft did not take it."
    fi
}
