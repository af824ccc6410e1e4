// Owns the orders the tests send: valid ones, one with digits that JSON numbers lose, one made of markup.

export const KNOWN = 'b563feb7b2b84b6test';
export const MARKUP = '<img src=x onerror=alert(1)>';

let next = 0;
/** An id no other order of this run has. */
export const freshId = () => `${Date.now().toString(16)}${(next += 1).toString(16).padStart(5, '0')}test`;

export function wbOrder(id, { name = 'Анна Смирнова', amount = 1817, items = 1 } = {}) {
  return {
    order_uid: id,
    track_number: 'WBILMTESTTRACK',
    entry: 'WBIL',
    delivery: {
      name, phone: '+79213334455', zip: '191186', city: 'Санкт-Петербург',
      address: 'Невский проспект 88, кв. 12', region: 'Ленинградская область', email: 'test@gmail.com',
    },
    payment: {
      transaction: id, request_id: '', currency: 'RUB', provider: 'wbpay', amount, payment_dt: 1637907727,
      bank: 'alpha', delivery_cost: 1500, goods_total: amount, custom_fee: 0,
    },
    items: Array.from({ length: items }, (_, index) => ({
      chrt_id: 9934930 + index, track_number: 'WBILMTESTTRACK', price: 453, rid: `ab4219087a764ae0b${index}test`,
      name: ['Термокружка 450 мл', 'Кофе зерновой 1 кг', 'Плед флисовый'][index % 3], sale: 30, size: '0',
      total_price: 317, nm_id: 2389212 + index, brand: ['Арктика', 'Lavazza', 'Cleo'][index % 3], status: 202,
    })),
    locale: 'ru', internal_signature: '', customer_id: 'test', delivery_service: 'meest', shardkey: '9', sm_id: 99,
    date_created: new Date().toISOString().replace(/\.\d+/, ''), oof_shard: '1',
  };
}

export const envelope = (payload, rest = {}) => ({ order_id: '', user_id: '2f0f8f0e-5b0a-4c3e-9d51-2a3c6b7d8e9f', payload, ...rest });

/**
 * An object of `depth` levels, each with a short text, a long one without spaces and a long name.
 */
export const deepObject = (depth) => ({
  text: `level ${depth} from the innermost`, long: 'x'.repeat(200), ['name'.repeat(30)]: depth,
  ...(depth > 1 ? { deeper: deepObject(depth - 1) } : {}),
});

/** Every text, and the name of an extra field at each level, is markup. */
export function markupOrder(id) {
  const replaced = JSON.parse(JSON.stringify(wbOrder(id)), (key, value) => (typeof value === 'string' ? MARKUP : value));
  const order = { ...replaced, order_uid: id, [MARKUP]: MARKUP, deeper: { [MARKUP]: [{ [MARKUP]: MARKUP }] } };
  order.delivery[MARKUP] = MARKUP;
  order.payment[MARKUP] = MARKUP;
  order.items[0][MARKUP] = MARKUP;
  return order;
}

/** The same, as far as validation lets it in: an e-mail, a date and an id have a form of their own. */
export function acceptedMarkupOrder(id) {
  const order = markupOrder(id);
  const plain = wbOrder(id);
  order.delivery.email = plain.delivery.email;
  order.delivery.phone = plain.delivery.phone;
  order.payment.currency = plain.payment.currency;
  order.date_created = plain.date_created;
  return order;
}

export function markupEnvelope(id) {
  return {
    order_uid: id, order_id: MARKUP, user_id: MARKUP, amount: MARKUP, status: MARKUP,
    payload: { [MARKUP]: MARKUP, currency: MARKUP, items: [{ name: MARKUP, [MARKUP]: MARKUP }], list: [MARKUP, [MARKUP]] },
    created_at: MARKUP, updated_at: MARKUP, bucket: MARKUP, [MARKUP]: MARKUP,
  };
}
