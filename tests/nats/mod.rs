//! What has a meaning with NATS JetStream only: durables and streams that are made, deleted or shared, headers that the
//! server acts upon, `publish --nats`. Each test has a subject, streams and a durable of its own. What holds for every
//! broker is in `broker`.

mod faults;
mod messages;
mod rights;
mod settings;
mod standby;
pub mod subject;
mod tool;
