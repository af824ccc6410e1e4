// Owns reading Server-Sent Events with a key, which EventSource cannot send. It has what the page uses
// of EventSource: `open`, `error` and named events, `readyState`, `close`. After an error it is closed,
// and its opener opens the next one.

export class KeyedSource extends EventTarget {
  readyState = EventSource.CONNECTING;
  #closed = new AbortController();

  /** `onRefused` is called when the key is not good any more. */
  constructor(url, headers, onRefused) {
    super();
    this.#read(url, headers, onRefused).catch(() => this.#fail());
  }

  close() {
    this.readyState = EventSource.CLOSED;
    this.#closed.abort();
  }

  async #read(url, headers, onRefused) {
    const answer = await fetch(url, {
      headers: { Accept: 'text/event-stream', ...headers }, cache: 'no-store', signal: this.#closed.signal,
    });
    if (answer.status === 401) onRefused();
    const isStream = answer.ok && (answer.headers.get('Content-Type') ?? '').startsWith('text/event-stream');
    if (!isStream) throw new Error(`status ${answer.status}`);
    this.readyState = EventSource.OPEN;
    this.dispatchEvent(new Event('open'));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = this.#parser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parse(value);
    }
    this.#fail();
  }

  #fail() {
    if (this.readyState === EventSource.CLOSED) return;
    this.readyState = EventSource.CLOSED;
    this.dispatchEvent(new Event('error'));
  }

  // https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream, for lines
  // that end with \n, as the service ends them.
  #parser() {
    let rest = '';
    let type = '';
    let data = [];
    let lastEventId = '';
    const take = (line) => {
      if (line === '') {
        if (data.length > 0) this.dispatchEvent(new MessageEvent(type || 'message', { data: data.join('\n'), lastEventId }));
        type = '';
        data = [];
        return;
      }
      const colon = line.indexOf(':');
      if (colon === 0) return; // a comment: the stream is alive
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'event') type = value;
      else if (field === 'data') data.push(value);
      else if (field === 'id') lastEventId = value;
    };
    return (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      lines.forEach(take);
    };
  }
}
