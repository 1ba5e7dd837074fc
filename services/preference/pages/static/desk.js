// What the page knows, without any DOM: the pairs before the rater, and choices that are not saved yet.
//
// A choice is written down in the browser before it is sent, and struck out once the server says that it is kept. It is
// sent under an id of its own, so that sending it again (after a lost answer, a reload, a restart) counts it once.

const ROOT = new URL('../', import.meta.url);
const AHEAD = 2; // the pair that is shown, and the next one
const PAUSES_S = [1, 2, 4, 8, 15, 30];
const ANSWER_S = 15;

/** The server understood and said no; `kind` is the name of its error. */
export class Refused extends Error {
  constructor({ kind, what }) {
    super(what);
    this.kind = kind;
  }
}

/** No answer, or one of a server that is not itself: to be asked again. */
export class Unreachable extends Error {}

export class Desk {
  pairs = []; // before the rater, the shown one first; `images` are there once `ready` is true
  outbox = []; // chosen, not saved
  reason = ''; // why there is no pair
  reachable = true;
  #working = false;
  #wake = () => {};

  /** `changed()` is called after every change of the above, `saved(me)` and `refused(error)` once a choice is. */
  constructor({ raterKey, changed, saved, refused }) {
    Object.assign(this, { changed, saved, refused });
    this.key = `rewardmesh:${ROOT.pathname}:${raterKey}`;
    this.outbox = JSON.parse(localStorage.getItem(this.key) ?? '[]');
  }

  get shown() {
    return this.pairs[0];
  }

  /** Takes a pair in whose pictures are in the page already, or fetches them. */
  take(pair, images, where = 'push') {
    const { expires_in_s, ...rest } = pair;
    const held = { ...rest, until: Date.now() + expires_in_s * 1000, ready: false, images: [] };
    this.pairs[where](held);
    this.#decode(held, images);
    this.changed();
  }

  async #decode(pair, images) {
    pair.images = images ?? pair.pictures.map((path) => Object.assign(new Image(), { src: new URL(path, ROOT) }));
    for (let attempt = 0; !pair.ready && this.pairs.includes(pair); attempt++) {
      try {
        await Promise.all(pair.images.map((image) => image.decode()));
        pair.ready = true;
      } catch {
        await this.#pause(attempt);
        pair.images.forEach((image) => (image.src = image.src));
      }
    }
    this.changed();
  }

  /** The rater chose: the next pair is shown at once, the choice is saved behind it. */
  choose(choice, look_s) {
    const { lease_id } = this.pairs.shift();
    const choice_id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
    this.#write([...this.outbox, { lease_id, choice, choice_id, look_s }]);
    this.changed();
    return this.work();
  }

  /** Saves what was chosen, then leases what is missing; goes on until both are done, or there is nothing to lease. */
  async work() {
    if (this.#working) return;
    this.#working = true;
    for (let attempt = 0, idle = 0; ; ) {
      try {
        await this.#send();
        this.reason = await this.#fill();
        attempt = 0;
        this.reachable = true;
        this.changed();
        if (!this.reason || this.pairs.length || ['done', 'signed_out'].includes(this.reason)) break;
        await this.#pause(idle++);
      } catch (error) {
        if (!(error instanceof Unreachable)) throw error;
        this.reachable = false;
        this.changed();
        await this.#pause(attempt++);
      }
    }
    this.#working = false;
    if (this.outbox.length) this.work();
  }

  /** Tries again now what is waited for. */
  wake() {
    this.#wake();
  }

  async #send() {
    while (this.outbox.length) {
      const [first] = this.outbox;
      try {
        this.saved((await this.ask('api/choice', first)).me);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.refused(error);
        if (error.kind === 'signed_out') throw new Unreachable();
      }
      this.#write(this.outbox.filter((one) => one.choice_id !== first.choice_id));
    }
  }

  async #fill() {
    while (this.pairs.length < AHEAD) {
      const have = [...this.pairs, ...this.outbox].map((one) => one.lease_id);
      const said = await this.ask('api/lease', { have }).catch(gone);
      if (said.kind !== 'pair') return said.reason;
      if (!this.pairs.some((one) => one.lease_id === said.lease_id)) this.take(said);
    }
    return '';
  }

  /** Takes the last choice back. Raises Refused if a reward has used it, Unreachable if it is not saved yet. */
  async undo() {
    if (this.outbox.length) throw new Unreachable();
    const pair = await this.ask('api/undo', {});
    this.pairs = this.pairs.filter((one) => one.lease_id !== pair.lease_id);
    this.take(pair, undefined, 'unshift');
    return this.ask('api/me');
  }

  /** Prolongs the leases that are half over. */
  async renew() {
    const now = Date.now();
    const due = this.pairs.filter((one) => !one.renewing && one.until > now && one.until - now < one.lease_s * 500);
    for (const pair of due) {
      pair.renewing = true;
      try {
        pair.until = Date.now() + (await this.ask('api/renew', { lease_id: pair.lease_id })).expires_in_s * 1000;
      } catch (error) {
        if (error instanceof Refused) pair.until = 0;
      }
      pair.renewing = false;
    }
  }

  /** Lets go of pairs whose lease is over; true if the shown one was among them. */
  expire() {
    const now = Date.now();
    const shown = this.shown;
    this.pairs = this.pairs.filter((one) => one.until > now);
    return shown !== undefined && shown !== this.shown;
  }

  /** One request. Raises Refused or Unreachable. */
  async ask(path, body) {
    let answer, said;
    try {
      answer = await fetch(new URL(path, ROOT), {
        method: body ? 'POST' : 'GET',
        headers: { 'Content-Type': 'application/json' },
        body: body && JSON.stringify(body),
        signal: AbortSignal.timeout(ANSWER_S * 1000),
      });
      said = await answer.json();
    } catch {
      throw new Unreachable();
    }
    if (answer.ok) return said;
    if (answer.status >= 500 || !said.error) throw new Unreachable();
    throw new Refused(said.error);
  }

  #write(outbox) {
    this.outbox = outbox;
    localStorage.setItem(this.key, JSON.stringify(outbox));
  }

  #pause(attempt) {
    const pause_s = PAUSES_S[Math.min(attempt, PAUSES_S.length - 1)] * (0.75 + Math.random() / 2);
    return new Promise((done) => {
      this.#wake = done;
      setTimeout(done, pause_s * 1000);
    });
  }
}

/** Whose invite holds no more is told so, and nothing is asked for again. */
function gone(error) {
  if (error instanceof Refused && ['TokenRefused', 'InviteRefused'].includes(error.kind)) return { reason: 'signed_out' };
  throw error;
}
