//! The parts of a DNS message that a forwarder must understand. Source: RFC 1035, 4.1.

/// Longest query taken; real ones stay below 512 bytes.
pub(crate) const QUERY_MAX: usize = 4096;
const HEADER_LEN: usize = 12;
const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;

/// A server that could not answer.
pub(crate) const SERVFAIL: u8 = 2;
/// A server that does not want to.
pub(crate) const REFUSED: u8 = 5;

/// A well-formed query with one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    packet: &'a [u8],
    question_end: usize,
}

impl<'a> Query<'a> {
    /// Checks a packet; `None` if it is anything but one plain question.
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Self> {
        let is_query = packet.len() >= HEADER_LEN
            && packet.len() <= QUERY_MAX
            && packet[2] & 0x80 == 0 // not a response
            && packet[2] & 0x78 == 0 // opcode QUERY
            && count(packet, 4) == 1 // one question
            && count(packet, 6) == 0 // no answers
            && count(packet, 8) == 0; // no authorities
        if !is_query {
            return None;
        }
        let question_end = question_end(packet)?;
        Some(Self { packet, question_end })
    }

    /// Returns the whole packet.
    pub(crate) fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Says whether `answer` answers this query, sent with `id`.
    pub(crate) fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let question = &self.packet[HEADER_LEN..self.question_end];
        let (name, kind) = question.split_at(question.len() - 4);
        answer.len() >= self.question_end
            && answer[..2] == id.to_be_bytes()
            && answer[2] & 0xf8 == 0x80 // a response, opcode QUERY
            && count(answer, 4) == 1
            // Some servers answer in lower case. Label lengths are below the letters.
            && answer[HEADER_LEN..self.question_end - 4].eq_ignore_ascii_case(name)
            && answer[self.question_end - 4..self.question_end] == *kind
    }

    /// Returns an answer that says nothing but `rcode`.
    pub(crate) fn refuse(&self, rcode: u8) -> Vec<u8> {
        let mut answer = self.packet[..self.question_end].to_vec();
        answer[2] = 0x80 | (answer[2] & 0x01); // response; recursion desired as asked
        answer[3] = 0x80 | (rcode & 0x0f); // recursion available
        answer[4..HEADER_LEN].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        answer
    }
}

/// Returns a message's id; 0 if it has none.
pub(crate) fn id(packet: &[u8]) -> u16 {
    packet.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]))
}

/// Replaces a message's id.
pub(crate) fn set_id(packet: &mut [u8], id: u16) {
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Returns a message's response code.
pub(crate) fn rcode(packet: &[u8]) -> u8 {
    packet.get(3).map_or(SERVFAIL, |byte| byte & 0x0f)
}

fn count(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// Returns where the first question ends. Its name must be written out: there is nothing
/// before it that it could point to.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        let len = *packet.get(at)?;
        if len > LABEL_MAX {
            return None;
        }
        at += 1 + usize::from(len);
        if at - HEADER_LEN > NAME_MAX {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    let end = at + 4;
    (end <= packet.len()).then_some(end)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query for the address of `name`.
    pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
        let mut packet = id.to_be_bytes().to_vec();
        packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(label.as_bytes());
        }
        packet.extend([0, 0, 1, 0, 1]);
        packet
    }

    fn answer(mut query: Vec<u8>) -> Vec<u8> {
        query[2] |= 0x80;
        query
    }

    #[test]
    fn an_answer_fits_its_query_only() {
        let packet = query(7, "Example.com");
        let query_ = Query::parse(&packet).unwrap();
        assert!(query_.is_answered_by(&answer(packet.clone()), 7));
        assert!(query_.is_answered_by(&answer(query(7, "example.com")), 7), "lower case");
        assert!(!query_.is_answered_by(&packet, 7), "a query is no answer");
        assert!(!query_.is_answered_by(&answer(packet.clone()), 8), "another id");
        assert!(!query_.is_answered_by(&answer(query(7, "exbmple.com")), 7), "another name");
        let mut other_type = answer(packet.clone());
        let last = other_type.len() - 3;
        other_type[last] = 28;
        assert!(!query_.is_answered_by(&other_type, 7), "another type");
        let whole = answer(packet.clone());
        assert!(!query_.is_answered_by(&whole[..20], 7), "half an answer");
    }

    #[test]
    fn only_one_plain_question_is_a_query() {
        let good = query(7, "example.com");
        assert!(Query::parse(&good).is_some());
        let change = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        for (why, packet) in [
            ("empty", vec![]),
            ("header only", good[..12].to_vec()),
            ("cut", good[..good.len() - 1].to_vec()),
            ("response", change(2, 0x80)),
            ("update", change(2, 0x28)),
            ("two questions", change(5, 2)),
            ("none", change(5, 0)),
            ("answers", change(7, 1)),
            ("authorities", change(9, 1)),
            ("a pointer", change(12, 0xc0)),
            ("long label", change(12, 64)),
            ("too long", [good.clone(), vec![0; QUERY_MAX]].concat()),
            ("long name", query(1, &["a"; 200].join("."))),
        ] {
            assert!(Query::parse(&packet).is_none(), "{why}");
        }
    }

    #[test]
    fn a_refusal_answers_its_query() {
        let packet = query(7, "example.com");
        let refusal = Query::parse(&packet).unwrap().refuse(SERVFAIL);
        assert!(Query::parse(&packet).unwrap().is_answered_by(&refusal, 7));
        assert_eq!(rcode(&refusal), SERVFAIL);
        assert_eq!(id(&refusal), 7);
    }

    proptest! {
        #[test]
        fn no_packet_makes_us_panic(
            packet in proptest::collection::vec(any::<u8>(), 0..600),
            answer in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            if let Some(query) = Query::parse(&packet) {
                query.is_answered_by(&answer, 1);
                query.refuse(SERVFAIL);
            }
            let mut packet = packet;
            set_id(&mut packet, 3);
            rcode(&packet);
        }

        /// Nearly valid packets reach further than random ones.
        #[test]
        fn no_damage_to_a_query_makes_us_panic(
            at in 0..29usize, byte in any::<u8>(), len in 0..29usize,
        ) {
            let mut packet = query(7, "example.com");
            packet[at.min(28)] = byte;
            packet.truncate(len);
            if let Some(query) = Query::parse(&packet) {
                prop_assert!(query.refuse(SERVFAIL).len() <= packet.len());
            }
        }
    }
}
