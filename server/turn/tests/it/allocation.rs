//! The path of an anonymous Binding does not allocate.

use meetpoint_turn::{Input, attr};

use crate::common::{CLIENT, CLIENT6, PRIMARY_MAIN, Rig, addr, plain, request, request_with, square};

#[test]
fn anonymous_bindings_do_not_allocate() {
    let mut rig = Rig::new(square());
    let mut with_fingerprint = request();
    with_fingerprint.fingerprint();
    let questions = [
        plain(),
        with_fingerprint.finish(),
        request_with(&[(attr::CHANGE_REQUEST, &[0, 0, 0, 6])]),
        request_with(&[(0x8022, b"some client's name")]),
    ];
    let mut check = |source: &str, question: &[u8]| {
        let source = addr(source);
        let mut outputs = 0;
        let measured = allocation_counter::measure(|| {
            let input = Input::Datagram { listener: PRIMARY_MAIN, source, payload: question };
            rig.server.handle(rig.now, input);
            while let Some(output) = rig.server.poll_output() {
                std::hint::black_box(output);
                outputs += 1;
            }
        });
        assert_eq!((outputs, measured.count_total), (1, 0));
    };
    for question in &questions {
        check(CLIENT, question);
        check(CLIENT6, question);
    }
}
