/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What the programs share with user space; src/xdp.rs and src/source/xsk/umem.rs mirror it.
 */
#ifndef RINGTAP_H
#define RINGTAP_H

/*
 * Queues that are told apart. No NIC has as many; a frame on a queue beyond them goes to the stack
 * uncounted.
 */
#define RINGTAP_QUEUES 1024

/* Tells a stamp from what was in the headroom before: "ringtap\1", read as a little-endian number. */
#define RINGTAP_MAGIC 0x01706174676e6972ULL

/* Where the frames of one queue went, as one CPU counted it: seen is the sum of the others. */
struct queue_counts {
	__u64 seen;
	__u64 redirected;
	__u64 passed;
	__u64 aborted;
};

/* The 16 bytes in front of a redirected frame. */
struct stamp {
	__u64 magic;
	__u64 monotonic_ns;
};

#endif
