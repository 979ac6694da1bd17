// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Takes the frames of an interface to the AF_XDP sockets of ringtap, and counts every one.
 *
 * What is done to traffic: a frame that arrives on a queue with a socket goes to that socket and
 * nowhere else; the host's stack does not see it. A frame on any other queue goes to the stack
 * untouched. Nothing is changed in a frame, and nothing is dropped here.
 *
 * In front of a redirected frame 16 bytes of metadata tell when it arrived (struct stamp). Where the
 * driver has no room for metadata the frame is redirected all the same, without a stamp.
 *
 * Loads on 5.10: no atomic that fetches. The counters need none at all, as each CPU has its own and
 * runs one of these programs at a time.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ringtap.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, RINGTAP_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RINGTAP_QUEUES);
	__type(key, __u32);
	__type(value, struct queue_counts);
} counts SEC(".maps");

static __always_inline void put_stamp(struct xdp_md *ctx)
{
	struct stamp *stamp;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*stamp)))
		return;
	stamp = (void *)(long)ctx->data_meta;
	if ((void *)(stamp + 1) > (void *)(long)ctx->data)
		return;
	stamp->magic = RINGTAP_MAGIC;
	stamp->monotonic_ns = bpf_ktime_get_ns();
}

static __always_inline int take(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;
	struct queue_counts *count = bpf_map_lookup_elem(&counts, &queue);

	if (!count)
		return XDP_PASS;
	count->seen++;
	/* Looked up first, so that a frame for the stack carries no metadata: GRO compares it. */
	if (!bpf_map_lookup_elem(&xsks, &queue)) {
		count->passed++;
		return XDP_PASS;
	}
	put_stamp(ctx);
	switch (bpf_redirect_map(&xsks, queue, XDP_PASS)) {
	case XDP_REDIRECT:
		count->redirected++;
		return XDP_REDIRECT;
	case XDP_PASS:
		/* The socket went away since it was looked up. */
		count->passed++;
		return XDP_PASS;
	default:
		count->aborted++;
		return XDP_PASS;
	}
}

SEC("xdp")
int ringtap(struct xdp_md *ctx)
{
	return take(ctx);
}

/* The same for frames of several buffers: MTUs above one page, from Linux 5.18 on. */
SEC("xdp.frags")
int ringtap_frags(struct xdp_md *ctx)
{
	return take(ctx);
}

/* The kernel offers some helpers only to programs that name the GPL. */
char _license[] SEC("license") = "GPL";
