//! A delivery, encoded once for each consumer: method, header and body as those of a real job of Leveret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{AMQPClass, BasicProperties, basic},
    types::{AMQPValue, FieldTable, ShortString},
};

use bytes::Bytes;

use super::wire::{FRAME_MAX, FRAME_OVERHEAD, FRAME_START, push_frame};

/// The jobs that the stub delivers.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The only queue that has jobs.
    pub queue: String,
    /// The name of every job.
    pub job: String,
    /// The payload of every job.
    pub body: Bytes,
    /// The number of jobs. They are numbered from 0, and [`job_number`] reads a job's number from its message id.
    pub jobs: u64,
}

const ID_PREFIX: &str = "00000000-0000-4000-8000-";
const DIGITS: usize = 12;
const BASIC: u16 = 60;

/// The message id of a job: as long as a UUID, ending with its number.
#[must_use]
pub fn message_id(job: u64) -> String {
    format!("{ID_PREFIX}{job:0DIGITS$x}")
}

/// The number of the job with this message id, `None` if the stub did not deliver it.
#[must_use]
pub fn job_number(message_id: &str) -> Option<u64> {
    u64::from_str_radix(message_id.strip_prefix(ID_PREFIX)?, 16).ok()
}

#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// The offset of the delivery tag. The next octet is the redelivery flag.
    tag: usize,
    /// The offset of the job's number.
    number: usize,
}

impl Template {
    pub(super) fn new(feed: &Feed, channel: u16, consumer: &ShortString) -> Self {
        let mut bytes = Vec::new();
        let deliver = basic::Deliver {
            consumer_tag: consumer.clone(),
            delivery_tag: 0,
            redelivered: false,
            exchange: ShortString::default(),
            routing_key: feed.queue.as_str().into(),
        };
        push_frame(&mut bytes, &AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))));
        let header = bytes.len();
        let body_size = feed.body.len() as u64;
        let content = AMQPContentHeader { class_id: BASIC, body_size, properties: properties(&feed.job) };
        push_frame(&mut bytes, &AMQPFrame::Header(channel, content));
        let id = bytes[header..].windows(ID_PREFIX.len()).position(|bytes| bytes == ID_PREFIX.as_bytes());
        let number = header + id.unwrap_or_default() + ID_PREFIX.len();
        for part in feed.body.chunks(FRAME_MAX as usize - FRAME_OVERHEAD) {
            push_frame(&mut bytes, &AMQPFrame::Body(channel, part.to_vec()));
        }
        // After the ids of class and method, and the consumer tag with its length.
        let tag = FRAME_START + 4 + 1 + consumer.as_str().len();
        Self { bytes, tag, number }
    }

    pub(super) fn push(&self, out: &mut Vec<u8>, tag: u64, redelivered: bool, job: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let delivery = &mut out[start..];
        delivery[self.tag..self.tag + 8].copy_from_slice(&tag.to_be_bytes());
        delivery[self.tag + 8] = redelivered.into();
        for (digit, at) in delivery[self.number..self.number + DIGITS].iter_mut().rev().zip(0..) {
            *digit = b"0123456789abcdef"[(job >> (4 * at) & 15) as usize];
        }
    }
}

fn properties(job: &str) -> BasicProperties {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut headers = FieldTable::default();
    let enqueued_at = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    headers.insert("leveret-enqueued-at".into(), AMQPValue::LongLongInt(enqueued_at));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_timestamp(now.as_secs())
        .with_type(job.into())
        .with_message_id(message_id(0).into())
        .with_headers(headers)
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::parse_frame;

    use super::*;

    #[test]
    fn a_delivery_has_its_own_tag_id_and_flag_and_the_whole_body() {
        let body = Bytes::from(vec![7; FRAME_MAX as usize]);
        let feed = Feed { queue: "q".to_owned(), job: "j".to_owned(), body: body.clone(), jobs: 1 };
        let template = Template::new(&feed, 5, &"consumer".into());
        let mut bytes = Vec::new();
        template.push(&mut bytes, 1, false, 1);
        bytes.clear();
        template.push(&mut bytes, 0x0102_0304_0506, true, 0xabc_0123);
        let (rest, deliver) = parse_frame(bytes.as_slice()).unwrap();
        let AMQPFrame::Method(5, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) = deliver else {
            panic!("not a delivery on channel 5: {deliver:?}")
        };
        assert_eq!((deliver.delivery_tag, deliver.redelivered), (0x0102_0304_0506, true));
        assert_eq!((deliver.consumer_tag.as_str(), deliver.routing_key.as_str()), ("consumer", "q"));
        let (mut rest, header) = parse_frame(rest).unwrap();
        let AMQPFrame::Header(5, header) = header else { panic!("not a header: {header:?}") };
        let id = header.properties.message_id().as_ref().unwrap();
        assert_eq!((id.as_str(), id.as_str().len()), (message_id(0xabc_0123).as_str(), 36));
        assert_eq!(job_number(id.as_str()), Some(0xabc_0123));
        let mut received = Vec::new();
        while !rest.is_empty() {
            let (after, part) = parse_frame(rest).unwrap();
            let AMQPFrame::Body(5, part) = part else { panic!("not a body: {part:?}") };
            received.extend(part);
            rest = after;
        }
        assert_eq!((header.body_size, received), (body.len() as u64, body.to_vec()));
    }
}
