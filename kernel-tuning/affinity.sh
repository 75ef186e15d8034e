#!/usr/bin/env bash
# Subject affinity: which core handles a packet before the broker sees it.
#
# Hardware queues first: each queue's interrupt on a core of its own, round and round. Where a network card has fewer
# queues than there are cores, RPS spreads its packets in software, and RFS sends each flow to the core whose shard
# reads it. Loopback needs none of it. Nothing here was measured by the project (its machines had one queue).

# Entries of the flow table: as many as flows that are active at the same time; more only cost memory.
readonly FLOWS_MAX=1048576

# The smallest power of two that is at least as large.
power_of_two() {
    local power=1
    while ((power < $1)); do power=$((power * 2)); done
    echo $power
}

# A mask of all cores, in the kernel's spelling: words of 32 bits, the highest first.
mask_of_cores() {
    local core word mask='' words=()
    for core in "${CORES[@]}"; do
        word=$((core / 32))
        words[word]=$((${words[word]:-0} | 1 << core % 32))
    done
    for ((word = (CORES[-1] / 32); word >= 0; word--)); do
        if [[ -z $mask ]]; then
            printf -v mask '%x' "${words[word]:-0}"
        else
            printf -v mask '%s,%08x' "$mask" "${words[word]:-0}"
        fi
    done
    echo "$mask"
}

# Interfaces with hardware (or a virtual machine's idea of it) behind them.
interfaces() {
    local interface
    for interface in "$ROOT"/sys/class/net/*; do
        [[ ! -e $interface/device ]] || printf '%s\n' "${interface##*/}"
    done
}

# Lines `IRQ QUEUE` of the interrupts of an interface's queues.
queue_interrupts() { # queue_interrupts INTERFACE
    local device action irq interrupt numbers=()
    device=$(readlink -f -- "$ROOT/sys/class/net/$1/device") || return 0
    for interrupt in "$device"/msi_irqs/* "${device%/*}"/msi_irqs/*; do
        [[ ! -e $interrupt ]] || numbers+=("${interrupt##*/}")
    done
    ((${#numbers[@]} > 0)) || return 0
    for irq in "${numbers[@]}"; do
        # The kernel shows the name of the interrupt's owner as a directory, such as eth0-TxRx-3 or virtio2-input.0.
        for action in "$ROOT/proc/irq/$irq"/*/; do
            action=${action%/}
            action=${action##*/}
            if [[ ${action,,} =~ (rx|tx|input|output|comp|fp|queue|q)[-._]?([0-9]+)(@.*)?$ ]]; then
                echo "$irq ${BASH_REMATCH[2]}"
                break
            fi
        done
    done | sort -n
}

knobs_affinity() {
    local interface queue irq number core flows wanted all=0 queues
    if ((${#CORES[@]} == 1)); then
        report ok "cores" 1 "" "One core handles everything; there is nothing to spread."
        return
    fi
    if [[ -e $ROOT/run/irqbalance || -e $ROOT/run/irqbalance.pid ]]; then
        by_hand "irqbalance" "running" "off" "It moves interrupts back within seconds: systemctl disable --now irqbalance"
    fi
    while read -r interface; do
        while read -r irq number; do
            core=${CORES[number % ${#CORES[@]}]}
            setting "irq $irq ($interface queue $number)" "/proc/irq/$irq/smp_affinity_list" is "$core" "Each queue's interrupt on a core of its own, so that all cores take packets."
        done < <(queue_interrupts "$interface")

        queues=("$ROOT/sys/class/net/$interface/queues"/rx-*)
        [[ -e ${queues[0]} ]] || continue
        if ((${#queues[@]} >= ${#CORES[@]})); then
            wanted=0 flows=0
        else
            wanted=$(mask_of_cores)
            flows=$(power_of_two $((CONNECTIONS < FLOWS_MAX ? CONNECTIONS : FLOWS_MAX)))
            all=$flows
        fi
        for queue in "${queues[@]}"; do
            queue=${queue#"$ROOT"}
            setting "$interface ${queue##*/} rps_cpus" "$queue/rps_cpus" mask "$wanted" "${#queues[@]} queues for ${#CORES[@]} cores: $([[ $wanted == 0 ]] && echo 'the hardware spreads packets, software need not do it again.' || echo 'packets are spread over all cores in software.')"
            if ((flows > 0)); then
                setting "$interface ${queue##*/} rps_flow_cnt" "$queue/rps_flow_cnt" min $((flows / ${#queues[@]})) "This queue's part of the $flows flows below."
            fi
        done
    done < <(interfaces)
    if ((all > 0)); then
        sysctl_setting net.core.rps_sock_flow_entries min "$all" "Flows whose reading core is remembered (RFS): the connections active at the same time, at most $FLOWS_MAX, rounded up to a power of two."
    fi
}
