#!/usr/bin/env bash
# Subject hugepages: transparent huge pages give memory in pieces of 2 MiB to whoever touches one byte of it.
#
# The broker's large tables and receive buffers are reserved in full, touched here and there, and given back page by
# page. With huge pages for everyone (`always`) memory per connection is no longer what is used. Reserved huge pages
# (vm.nr_hugepages) are not used by the broker at all, so there is no knob for them: each one reserved is 2 MiB less.

knobs_hugepages() {
    local base=/sys/kernel/mm/transparent_hugepage
    setting transparent_hugepage/enabled $base/enabled not "always madvise" "always: untouched parts of tables become resident, and memory given back comes back as a whole. madvise: only where a program asks for it; never is as good for the broker."
    setting transparent_hugepage/defrag $base/defrag not "always madvise" "always: a page fault may stop to compact memory, a pause of the whole shard."
}
