//! The commands of a client and their answers.

use std::{io, time::Duration};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, exchange, queue},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    client::{ClientEnd, StubClient},
    delivery::Template,
    jobs::UnknownTag,
    shared::ClientFault,
    state::{Channel, Consumer, StubState},
    wire::{FRAME_MAX, lock, push_frame, push_method},
};

const HEARTBEAT: u16 = 60;
const CHANNEL_MAX: u16 = 2047;
const NOT_ALLOWED: u16 = 530;
/// The exchange to which workers announce their jobs and clock probes when they start.
const NOT_JOBS: [&str; 2] = ["leveret.v1.catalogue", "leveret.v1.due"];

impl From<UnknownTag> for ClientEnd {
    fn from(UnknownTag(tag): UnknownTag) -> Self {
        Self::Fault(ClientFault::UnknownTag { tag })
    }
}

impl StubClient {
    fn answer(&self, channel: u16, method: AMQPClass) {
        push_method(&mut lock(&self.wire.pending), channel, method);
    }

    fn answer_on_connection(&self, method: connection::AMQPMethod) {
        self.answer(0, AMQPClass::Connection(method));
    }

    fn answer_basic(&self, channel: u16, method: basic::AMQPMethod) {
        self.answer(channel, AMQPClass::Basic(method));
    }

    pub(super) fn greet(&self) -> Result<(), ClientEnd> {
        let able = ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "exchange_exchange_bindings"];
        let mut capabilities = FieldTable::default();
        for name in able {
            capabilities.insert(name.into(), AMQPValue::Boolean(true));
        }
        let mut server_properties = FieldTable::default();
        server_properties.insert("product".into(), AMQPValue::LongString("Leveret stub".into()));
        server_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        self.answer_on_connection(connection::AMQPMethod::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: "PLAIN".into(),
            locales: "en_US".into(),
        }));
        Ok(())
    }

    pub(super) fn refuse(&self, fault: &ClientFault) {
        self.answer_on_connection(connection::AMQPMethod::Close(connection::Close {
            reply_code: NOT_ALLOWED,
            reply_text: format!("NOT_ALLOWED - {fault}").chars().take(200).collect::<String>().into(),
            class_id: 0,
            method_id: 0,
        }));
    }

    pub(super) fn command(&mut self, state: &mut StubState, number: u16, command: AMQPClass) -> Result<(), ClientEnd> {
        let command = match command {
            AMQPClass::Connection(command) => return self.on_connection(command),
            AMQPClass::Channel(command) => return self.on_channel(state, number, command),
            command => command,
        };
        let Some(channel) = self.channel(state, number)? else { return Ok(()) };
        match command {
            AMQPClass::Exchange(command) => self.exchange(number, command),
            AMQPClass::Queue(command) => self.queue(number, command),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                channel.confirmed.get_or_insert(0);
                if !select.nowait {
                    let answer = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
                    self.answer(number, AMQPClass::Confirm(answer));
                }
                Ok(())
            }
            AMQPClass::Basic(command) => self.basic(state, number, command),
            command => Err(unsupported(&command)),
        }
    }

    fn on_connection(&mut self, command: connection::AMQPMethod) -> Result<(), ClientEnd> {
        use connection::AMQPMethod as Method;
        match command {
            Method::StartOk(start) if start.mechanism.as_str() == "PLAIN" => {
                let tune = connection::Tune { channel_max: CHANNEL_MAX, frame_max: FRAME_MAX, heartbeat: HEARTBEAT };
                self.answer_on_connection(Method::Tune(tune));
            }
            Method::TuneOk(tuned) => self.beat(tuned.heartbeat).map_err(|_| ClientEnd::Goodbye)?,
            Method::Open(_) => self.answer_on_connection(Method::OpenOk(connection::OpenOk {})),
            Method::Close(_) => {
                self.answer_on_connection(Method::CloseOk(connection::CloseOk {}));
                return Err(ClientEnd::Goodbye);
            }
            command => return Err(unsupported(&command)),
        }
        Ok(())
    }

    /// Limits a read from the client to the time until the next heartbeat.
    fn beat(&mut self, seconds: u16) -> io::Result<()> {
        self.heartbeat = Duration::from_secs(seconds.into());
        self.wire.stream.set_read_timeout(Some(self.heartbeat / 2).filter(|pause| !pause.is_zero()))
    }

    fn on_channel(&self, state: &mut StubState, number: u16, command: channel::AMQPMethod) -> Result<(), ClientEnd> {
        use channel::AMQPMethod as Method;
        let Some(connection) = state.connections.get_mut(&self.number) else { return Err(ClientEnd::Goodbye) };
        match command {
            Method::Open(_) => {
                connection.channels.insert(number, Channel::default());
                self.answer(number, AMQPClass::Channel(Method::OpenOk(channel::OpenOk {})));
            }
            Method::Close(_) => {
                // A channel that the stub closes at the same time stays until the client confirms it.
                if let Some(mut channel) = connection.channels.remove(&number) {
                    state.jobs.requeue(channel.unacked.take_all());
                    if channel.closing {
                        connection.channels.insert(number, channel);
                    }
                }
                self.answer(number, AMQPClass::Channel(Method::CloseOk(channel::CloseOk {})));
            }
            Method::CloseOk(_) => {
                connection.channels.remove(&number);
            }
            // Workers use it to learn that their acks have arrived.
            Method::Flow(flow) => {
                self.answer(number, AMQPClass::Channel(Method::FlowOk(channel::FlowOk { active: flow.active })));
            }
            command => return Err(unsupported(&command)),
        }
        Ok(())
    }

    fn exchange(&self, number: u16, command: exchange::AMQPMethod) -> Result<(), ClientEnd> {
        use exchange::AMQPMethod as Method;
        let (nowait, answer) = match command {
            Method::Declare(declare) => (declare.nowait, Method::DeclareOk(exchange::DeclareOk {})),
            Method::Bind(bind) => (bind.nowait, Method::BindOk(exchange::BindOk {})),
            command => return Err(unsupported(&command)),
        };
        if !nowait {
            self.answer(number, AMQPClass::Exchange(answer));
        }
        Ok(())
    }

    fn queue(&self, number: u16, command: queue::AMQPMethod) -> Result<(), ClientEnd> {
        use queue::AMQPMethod as Method;
        let (nowait, answer) = match command {
            Method::Declare(declare) => {
                let declared = queue::DeclareOk { queue: declare.queue, message_count: 0, consumer_count: 0 };
                (declare.nowait, Method::DeclareOk(declared))
            }
            Method::Bind(bind) => (bind.nowait, Method::BindOk(queue::BindOk {})),
            Method::Delete(delete) => (delete.nowait, Method::DeleteOk(queue::DeleteOk { message_count: 0 })),
            command => return Err(unsupported(&command)),
        };
        if !nowait {
            self.answer(number, AMQPClass::Queue(answer));
        }
        Ok(())
    }

    fn basic(&self, state: &mut StubState, number: u16, command: basic::AMQPMethod) -> Result<(), ClientEnd> {
        use basic::AMQPMethod as Method;
        match command {
            Method::Consume(consume) => return self.consume(state, number, consume),
            // With requeue the job is redelivered. Without it the job would be lost here.
            Method::Nack(nack) => {
                return self.requeue(state, number, (nack.delivery_tag, nack.multiple), nack.requeue);
            }
            Method::Reject(reject) => {
                return self.requeue(state, number, (reject.delivery_tag, false), reject.requeue);
            }
            _ => {}
        }
        let Some(channel) = self.channel(state, number)? else { return Ok(()) };
        match command {
            // The content follows.
            Method::Publish(publish) => channel.announcing = NOT_JOBS.contains(&publish.exchange.as_str()),
            Method::Get(get) => self.answer_get(number, get.queue),
            Method::Qos(qos) => {
                channel.prefetch = qos.prefetch_count;
                self.answer_basic(number, Method::QosOk(basic::QosOk {}));
            }
            Method::Cancel(cancel) => {
                channel.consumer.take_if(|consumer| consumer.tag == cancel.consumer_tag);
                if !cancel.nowait {
                    let answer = basic::CancelOk { consumer_tag: cancel.consumer_tag };
                    self.answer_basic(number, Method::CancelOk(answer));
                }
            }
            // Answers to methods that the stub sends by itself need no reaction.
            command => return Err(unsupported(&command)),
        }
        Ok(())
    }

    /// Returns the message with which a worker asks for the time, without a time.
    fn answer_get(&self, number: u16, queue: ShortString) {
        let got = basic::GetOk {
            delivery_tag: 1,
            redelivered: false,
            exchange: ShortString::default(),
            routing_key: queue,
            message_count: 0,
        };
        self.answer_basic(number, basic::AMQPMethod::GetOk(got));
        let header = AMQPContentHeader { class_id: 60, body_size: 0, properties: BasicProperties::default() };
        push_frame(&mut lock(&self.wire.pending), &AMQPFrame::Header(number, header));
    }

    fn consume(&self, state: &mut StubState, number: u16, consume: basic::Consume) -> Result<(), ClientEnd> {
        let Some(channel) = self.channel(state, number)? else { return Ok(()) };
        let tag = match consume.consumer_tag {
            tag if tag.as_str().is_empty() => ShortString::from(format!("stub-{}-{number}", self.number)),
            tag => tag,
        };
        if consume.queue.as_str() == self.shared.feed.queue {
            if consume.no_ack || channel.consumer.is_some() {
                return Err(ClientEnd::unsupported("a consumer without acks, or two of its queue on one channel"));
            }
            let prefetch = if channel.prefetch == 0 { usize::MAX } else { channel.prefetch.into() };
            let template = Template::new(&self.shared.feed, number, &tag);
            channel.consumer = Some(Consumer { tag: tag.clone(), prefetch, template });
        }
        if !consume.nowait {
            let answer = basic::ConsumeOk { consumer_tag: tag };
            self.answer_basic(number, basic::AMQPMethod::ConsumeOk(answer));
        }
        Ok(())
    }

    pub(super) fn ack(&self, state: &mut StubState, number: u16, tag: u64, multiple: bool) -> Result<(), ClientEnd> {
        let StubState { connections, counts, on_ack, .. } = state;
        let Some(channel) = connections.get_mut(&self.number).and_then(|up| up.channels.get_mut(&number)) else {
            return Err(not_open(number));
        };
        if channel.closing {
            return Ok(());
        }
        counts.ack_frames += 1;
        channel.unacked.settle(tag, multiple, |job| {
            on_ack(job);
            counts.acked += 1;
        })?;
        Ok(())
    }

    fn requeue(&self, state: &mut StubState, number: u16, tags: (u64, bool), requeue: bool) -> Result<(), ClientEnd> {
        let (tag, multiple) = tags;
        let Some(channel) = self.channel(state, number)? else { return Ok(()) };
        let mut jobs = Vec::new();
        channel.unacked.settle(tag, multiple, |job| jobs.push(job))?;
        if !requeue && let Some(job) = jobs.first() {
            return Err(ClientEnd::Fault(ClientFault::Rejected { job: *job }));
        }
        state.jobs.requeue(jobs);
        Ok(())
    }

    /// Handles the header of a published message, which contains the size of its body, or a part of the body.
    pub(super) fn content(
        &self,
        state: &mut StubState,
        number: u16,
        bytes: u64,
        is_header: bool,
    ) -> Result<(), ClientEnd> {
        let Some(channel) = self.channel(state, number)? else { return Ok(()) };
        channel.missing = if is_header { bytes } else { channel.missing.saturating_sub(bytes) };
        if channel.missing > 0 {
            return Ok(());
        }
        let announcing = channel.announcing;
        if let Some(confirmed) = &mut channel.confirmed {
            *confirmed += 1;
            let ack = basic::Ack { delivery_tag: *confirmed, multiple: false };
            self.answer_basic(number, basic::AMQPMethod::Ack(ack));
        }
        state.counts.published += u64::from(!announcing);
        Ok(())
    }

    /// The channel of this client. `None` while it is being closed: its frames are ignored then.
    fn channel<'a>(&self, state: &'a mut StubState, number: u16) -> Result<Option<&'a mut Channel>, ClientEnd> {
        let connection = state.connections.get_mut(&self.number);
        let channel = connection.and_then(|connection| connection.channels.get_mut(&number));
        channel.map(|channel| Some(channel).filter(|channel| !channel.closing)).ok_or_else(|| not_open(number))
    }
}

fn not_open(channel: u16) -> ClientEnd {
    ClientEnd::unsupported(format!("channel {channel}, which is not open"))
}

fn unsupported(command: &impl std::fmt::Debug) -> ClientEnd {
    ClientEnd::unsupported(format!("{command:?}"))
}
