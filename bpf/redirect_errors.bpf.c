// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Counts the redirects of ringtap's XDP program that the kernel took and then refused, by queue.
 *
 * What is done to traffic: nothing; this only watches. Two errors count, because such a frame is in
 * no counter of the socket: ENXIO, the socket is not bound, and EINVAL, it is bound to another queue.
 * Every other error of an XSKMAP (net/xdp/xsk.c) is in XDP_STATISTICS already.
 *
 * The arguments of the tracepoint changed with Linux 5.13 (kernel/bpf: "Restructure redirect
 * actions"): before, the map itself stood where now its type and id stand. The loader attaches the
 * program whose arguments the kernel has.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "ringtap.h"

#define ENXIO 6
#define EINVAL 22

/* The two fields that are read, found by name in the running kernel's own types. */
struct bpf_prog_aux {
	__u32 id;
} __attribute__((preserve_access_index));

struct bpf_prog {
	struct bpf_prog_aux *aux;
} __attribute__((preserve_access_index));

/* The id of our XDP program, set before this is loaded. */
const volatile __u32 ours = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RINGTAP_QUEUES);
	__type(key, __u32);
	__type(value, __u64);
} errors SEC(".maps");

static __always_inline int count(const struct bpf_prog *program, int err, __u32 queue)
{
	__u64 *errs;

	if (err != -ENXIO && err != -EINVAL)
		return 0;
	if (BPF_CORE_READ(program, aux, id) != ours)
		return 0;
	errs = bpf_map_lookup_elem(&errors, &queue);
	if (errs)
		(*errs)++;
	return 0;
}

/* dev, program, target, err, map type, map id, index */
SEC("raw_tracepoint")
int redirect_err(struct bpf_raw_tracepoint_args *ctx)
{
	return count((const struct bpf_prog *)ctx->args[1], ctx->args[3], ctx->args[6]);
}

/* dev, program, target, err, map, index */
SEC("raw_tracepoint")
int redirect_err_before_5_13(struct bpf_raw_tracepoint_args *ctx)
{
	return count((const struct bpf_prog *)ctx->args[1], ctx->args[3], ctx->args[5]);
}

char _license[] SEC("license") = "GPL";
