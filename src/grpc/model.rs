//! The `OrderModel` of a snapshot: fields read off the stored bytes, and the payload as the bytes it is.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::proto::models::v1::OrderModel;
use crate::id::OrderId;
use crate::snapshot::{Kind, Snapshot};

/// An object whose members are still text.
type Members<'a> = HashMap<String, &'a RawValue>;

/// The message about the order of this id. An envelope order has every field. The document of any other order is its
/// producer's, so only its id, its payment's amount and the whole document as the payload can be given; the bucket is an
/// envelope order's way to be spread, and 0 here.
///
/// # Errors
/// The body is not what a body is. None was stored like that.
pub fn model(id: &OrderId, snapshot: &Snapshot) -> Result<OrderModel, serde_json::Error> {
    if snapshot.kind() == Kind::Envelope {
        return of_envelope(snapshot);
    }
    let body = snapshot.flat().whole();
    let members: Members<'_> = serde_json::from_slice(&body)?;
    let payment = members.get("payment").and_then(|payment| serde_json::from_str::<Members<'_>>(payment.get()).ok());
    let amount = payment.as_ref().map(|payment| number(payment, "amount")).unwrap_or_default();
    let payload_json = String::from_utf8_lossy(&body).into_owned();
    Ok(OrderModel { order_id: id.to_string(), amount, payload_json, ..OrderModel::default() })
}

/// The message about an envelope order, which names its own id.
///
/// # Errors
/// As [`model`].
pub fn of_envelope(snapshot: &Snapshot) -> Result<OrderModel, serde_json::Error> {
    let body = snapshot.flat().whole();
    let members: Members<'_> = serde_json::from_slice(&body)?;
    Ok(OrderModel {
        order_id: text(&members, "order_id")?,
        user_id: text(&members, "user_id")?,
        amount: number(&members, "amount"),
        status: text(&members, "status")?,
        payload_json: members.get("payload").map(|payload| payload.get().to_owned()).unwrap_or_default(),
        created_at: text(&members, "created_at")?,
        updated_at: text(&members, "updated_at")?,
        bucket: members.get("bucket").and_then(|bucket| bucket.get().parse().ok()).unwrap_or_default(),
    })
}

fn text(members: &Members<'_>, name: &str) -> Result<String, serde_json::Error> {
    members.get(name).map_or_else(|| Ok(String::new()), |value| serde_json::from_str(value.get()))
}

/// Zero where there is no number: a lenient profile lets anything stand there.
fn number(members: &Members<'_>, name: &str) -> f64 {
    members.get(name).and_then(|value| value.get().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::State;

    fn snapshot(kind: Kind, body: &str) -> Snapshot {
        Snapshot::new(1, 1, kind, State::Live, body.as_bytes(), &mut Vec::new())
    }

    #[test]
    fn an_envelopes_payload_keeps_its_spelling() {
        let payload = r#"{"b":1.50,"a":[1E2],"id":"\u0041","bucket":9}"#;
        let body = format!(
            r#"{{"order_uid":"a","order_id":"a","user_id":"u","amount":12.50,"status":"new","payload":{payload},"created_at":"c","updated_at":"d","bucket":1}}"#
        );
        let snapshot = snapshot(Kind::Envelope, &body);
        let model = model(&OrderId::parse(b"a").unwrap(), &snapshot).unwrap();
        let expected = OrderModel {
            order_id: "a".into(),
            user_id: "u".into(),
            amount: 12.5,
            status: "new".into(),
            payload_json: payload.into(),
            created_at: "c".into(),
            updated_at: "d".into(),
            bucket: 1,
        };
        assert_eq!(model, expected);
    }

    #[test]
    fn a_document_is_its_own_payload() {
        let id = OrderId::parse(b"w").unwrap();
        for (payment, amount) in
            [(r#"{"amount":1817}"#, 1817.0), (r#"{"amount":"many"}"#, 0.0), ("7", 0.0), ("{}", 0.0)]
        {
            let body = format!(r#"{{"order_uid":"w","payment":{payment},"status":5}}"#);
            let expected =
                OrderModel { order_id: "w".into(), amount, payload_json: body.clone(), ..OrderModel::default() };
            assert_eq!(model(&id, &snapshot(Kind::Wb, &body)).unwrap(), expected);
        }
    }
}
