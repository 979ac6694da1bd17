// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The frame generator: numbers live frames, hands them to one device, and keeps account of which
 * of them the device took. And the tally: counts what arrives at an interface, and drops it.
 *
 * Traffic: `generate` runs on frames that bpf_prog_test_run made, never on an interface. `tally`
 * drops every frame of the interface that it is attached to.
 *
 * One thread runs `generate`, and all of it - the program, the redirect, the flush - with softirqs
 * off. So while a number is without an answer, the answers that this task sees are ours, and
 * nothing here needs a lock.
 */
#include <linux/bpf.h>
#include <linux/errno.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* As frames::SLOTS. */
#define SLOTS 1464
/* As frames::MIN. */
#define MIN 60
/* An odd number of cache lines, so that the heads of the frames spread over all sets of a cache. */
#define ENTRY 2112
#define ROOM (ENTRY - 4 * sizeof(__u32))
/* A bulk of the kernel (DEV_MAP_BULK_SIZE) is 16; at most that, and one, can come back at once. */
#define OPEN 64
/* Binary digits after the point of a time, so that many small intervals add up right. */
#define FRACTION 12

struct frame {
	__u32 len;
	__u32 sequence_at;
	__u32 time_at; /* 0: no room for the time */
	__u32 unused;
	__u8 data[ROOM];
};

/* Numbers, oldest first. */
struct numbers {
	__u32 head;
	__u32 tail;
	__u64 at[OPEN];
};

/* What is asked for. */
struct order {
	__u64 limit;    /* no number from here on is handed out */
	__u64 interval; /* from frame to frame, in ns with FRACTION; 0 for none */
};

struct state {
	__u64 next;    /* the lowest number never handed to the device */
	__u64 sent;    /* frames the device took */
	__u64 refused; /* times that the device did not take a frame */
	__u64 first;   /* time of the first run, in ns */
	__u64 last;    /* time that the device last took a frame, in ns */
	__s32 error;   /* the last refusal's; 0 for a full device */
	__u32 unused;
	__u64 task;
	__u64 due;      /* the next frame's time since `first`, with FRACTION */
	__u64 earliest; /* nor is it sent before this */
	struct numbers open;  /* handed to the device, without an answer */
	struct numbers again; /* refused, to be sent before new ones */
};

struct arrived {
	__u64 frames;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct frame);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct order);
} orders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} device SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrived);
} arrivals SEC(".maps");

static __always_inline struct state *state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&states, &zero);
}

static __always_inline void push(struct numbers *numbers, __u64 number)
{
	numbers->at[numbers->tail % OPEN] = number;
	numbers->tail++;
}

static __always_inline __u64 pop(struct numbers *numbers)
{
	__u64 number = numbers->at[numbers->head % OPEN];

	numbers->head++;
	return number;
}

/* The frame handed over last did not get through. */
static __always_inline void take_back(struct state *state, int error)
{
	state->open.tail--;
	push(&state->again, state->open.at[state->open.tail % OPEN]);
	state->refused++;
	state->error = error;
}

/* Writes a number and its complement; see frames.rs. */
static __always_inline void put(struct frame *frame, __u32 at, __u64 number)
{
	__u64 *field;

	if (at > ROOM - 2 * sizeof(*field))
		return;
	field = (void *)&frame->data[at];
	field[0] = bpf_cpu_to_be64(number);
	field[1] = bpf_cpu_to_be64(~number);
}

/* Writes frame `number` over the one in `ctx`. */
static __always_inline int write(struct xdp_md *ctx, __u64 number)
{
	__u32 slot = number % SLOTS;
	struct frame *frame;
	__u64 len;
	int error;

	frame = bpf_map_lookup_elem(&table, &slot);
	if (!frame)
		return -ENOENT;
	len = frame->len;
	if (len > ROOM)
		return -EMSGSIZE;
	/* Two comparisons the compiler must not merge: the verifier wants to see both bounds. */
	barrier_var(len);
	if (len < MIN)
		return -EMSGSIZE;
	put(frame, frame->sequence_at, number);
	if (frame->time_at)
		put(frame, frame->time_at, bpf_ktime_get_ns());
	error = bpf_xdp_adjust_tail(ctx, (int)len - (int)bpf_xdp_get_buff_len(ctx));
	if (error)
		return error;
	return bpf_xdp_store_bytes(ctx, 0, frame->data, len);
}

/*
 * Whether it is time for a frame. One that is late makes up for it, but no faster than 4/3 of the
 * rate: a burst at full speed would overflow the receiver's ring.
 */
static __always_inline int due(struct state *st, __u64 interval)
{
	__u64 now;

	if (!interval && st->first)
		return 1;
	now = bpf_ktime_get_ns();
	if (!st->first)
		st->first = now;
	now = (now - st->first) << FRACTION;
	if (now < st->due || now < st->earliest)
		return 0;
	st->due += interval;
	st->earliest = now + interval - interval / 4;
	return 1;
}

/* Run with no frame due, or none left, this drops what it was given: an empty turn. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct state *st = state();
	__u32 zero = 0;
	struct order *order = bpf_map_lookup_elem(&orders, &zero);
	__u64 number;
	int error;

	if (!st || !order)
		return XDP_DROP;
	if (st->again.head == st->again.tail && st->next >= order->limit)
		return XDP_DROP;
	if (!due(st, order->interval))
		return XDP_DROP;
	if (st->again.head != st->again.tail)
		number = pop(&st->again);
	else
		number = st->next++;
	push(&st->open, number);
	st->task = bpf_get_current_task();

	error = write(ctx, number);
	if (error) {
		take_back(st, error);
		return XDP_DROP;
	}
	if (bpf_redirect_map(&device, 0, XDP_DROP) != XDP_REDIRECT) {
		take_back(st, -ENODEV);
		return XDP_DROP;
	}
	return XDP_REDIRECT;
}

/* The device's answer to a bulk: it took the first `sent` of them, and none of the `drops` others. */
SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(answer, const void *from, const void *to, int sent, int drops, int err)
{
	struct state *st = state();
	int i;

	if (!st || st->open.head == st->open.tail || st->task != bpf_get_current_task())
		return 0;
	if (sent > 0) {
		st->open.head += sent;
		st->sent += sent;
		st->last = bpf_ktime_get_ns();
	}
	for (i = 0; i < OPEN && i < drops; i++) {
		push(&st->again, pop(&st->open));
		st->refused++;
		st->error = err;
	}
	return 0;
}

/* The redirect itself went wrong: the frame handed over last never reached the device. */
SEC("tp_btf/xdp_redirect_err")
int BPF_PROG(no_answer, const void *dev, const void *xdp, const void *target, int err)
{
	struct state *st = state();

	if (!st || st->open.head == st->open.tail || st->task != bpf_get_current_task())
		return 0;
	take_back(st, err);
	return 0;
}

SEC("xdp.frags")
int tally(struct xdp_md *ctx)
{
	struct arrived *arrived;
	__u32 zero = 0;

	arrived = bpf_map_lookup_elem(&arrivals, &zero);
	if (arrived) {
		arrived->frames++;
		arrived->bytes += bpf_xdp_get_buff_len(ctx);
	}
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
