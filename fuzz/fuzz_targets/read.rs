//! Any bytes as a capture file: the reader comes to an end, and says where and why.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use ringtap::format::read::{ReadError, Reader};
use ringtap::packet::MAX_PACKET;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new("fuzz", Cursor::new(bytes.to_vec()));
    loop {
        let before = reader.offset();
        match reader.next() {
            Ok(Some(packet)) => {
                assert!(packet.data.len() <= MAX_PACKET);
                let interface = packet.interface;
                assert!(usize::try_from(interface).expect("32 bits") < reader.interfaces().len());
                assert!(reader.offset() > before);
            }
            Ok(None) => break,
            Err(ReadError::Damaged { offset, .. }) => {
                assert!(offset >= before);
                assert!(matches!(reader.next(), Ok(None)));
                break;
            }
            Err(ReadError::Empty { .. } | ReadError::NotCapture { .. }) => break,
            Err(other) => panic!("memory cannot fail: {other}"),
        }
    }
});
