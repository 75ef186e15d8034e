#!/usr/bin/env bash
# Subject sockets: the queues a connection passes through before the broker sees it, and the limits of one socket.
#
# What Midge sets itself on its listening sockets, and what accepted connections inherit, is not here: no Nagle delay,
# TCP keep-alive (listeners[].tcp_keep_alive), buffer sizes (listeners[].tcp_*_buffer_bytes).

# The largest backlog a listener can be given (listeners[].backlog). Caps cost nothing until they are used.
readonly BACKLOG_MAX=65535
# First port for outgoing connections of a load generator: above the ports that brokers and their tools listen on.
readonly FIRST_LOCAL_PORT=10240

# What one slow peer can make the kernel hold, and what stops many of them.
note_buffers() {
    local send receive stop
    send=$(sysctl_value net.ipv4.tcp_wmem) && receive=$(sysctl_value net.ipv4.tcp_rmem) || return 0
    stop=$(sysctl_value net.ipv4.tcp_mem) || return 0
    is_numeric "$send $receive $stop" || return 0
    note "tcp_wmem, tcp_rmem" "left alone: $send and $receive (least, first, most bytes of one socket). An idle connection has nothing queued and pays nothing for them. One slow reader can make the kernel hold $(human "${send##* }"), $CONNECTIONS of them $(human $((CONNECTIONS * ${send##* }))), were it not for tcp_mem, which stops all together at $(human $((${stop##* } * 4096))). To bound one connection of the broker alone: listeners[].tcp_send_buffer_bytes."
}

knobs_sockets() {
    local ports sources
    sysctl_setting net.core.somaxconn min $BACKLOG_MAX "Cap of every listener's backlog. Connections beyond the backlog are dropped and tried again by the client a second later: in a reconnect storm that is what clients feel. Each shard has a backlog of its own (listeners[].backlog, default 4096)."
    sysctl_setting net.ipv4.tcp_max_syn_backlog min $BACKLOG_MAX "Handshakes under way. With SYN cookies on it decides little; with cookies off it is the bound."
    sysctl_setting net.ipv4.tcp_syncookies is 1 "1: cookies only when the queue of handshakes overflows. 0 drops then; 2 always sends cookies, which loses TCP options."
    sysctl_setting net.ipv4.tcp_abort_on_overflow is 0 "0: a full backlog drops, and the client tries again. 1 resets, and the client reports an error."
    sysctl_setting net.core.netdev_max_backlog min 16384 "Packets waiting for one core, of loopback and of RPS (hardware queues with NAPI do not pass it). Overflow is the second column of /proc/net/softnet_stat. The value is other brokers' too; not measured."
    sysctl_setting net.ipv4.tcp_slow_start_after_idle is 0 "An MQTT connection is idle most of the time. 1 shrinks its congestion window each time, and a large message after a pause takes more round trips."
    sysctl_setting net.ipv4.tcp_notsent_lowat max 131072 "Bytes of one connection that the kernel takes beyond what is on the wire. Unlimited by default: a slow reader's queue then grows to tcp_wmem's most in kernel memory, where the broker cannot count or drop it. The value is chosen, not measured."
    note_buffers

    if $LOAD_GENERATOR; then
        ports=$((65535 - FIRST_LOCAL_PORT + 1))
        sources=$(div_ceil "$CONNECTIONS" $ports)
        # The lower end may be lower, the upper one not higher: both are this range's own rule.
        if [[ $(sysctl_value net.ipv4.ip_local_port_range) =~ ^([0-9]+)\ 65535$ ]] && ((BASH_REMATCH[1] <= FIRST_LOCAL_PORT)); then
            sysctl_setting net.ipv4.ip_local_port_range min "0 0" "Ports for outgoing connections."
        else
            sysctl_setting net.ipv4.ip_local_port_range is "$FIRST_LOCAL_PORT 65535" "Ports for outgoing connections: $ports for each source address and broker address. $CONNECTIONS connections / $ports = $sources source addresses (midge-flood --source A,B,…). A broker does not need it: it answers on the port it listens on."
        fi
    fi
}
