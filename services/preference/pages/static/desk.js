// What the page knows, without any DOM: the pairs before the rater, and choices that are not saved yet.
//
// A choice is written down in the browser before it is sent, and struck out once the server says that it is kept. It is
// sent under an id of its own, so that sending it again (after a lost answer, a reload, a restart) counts it once.

const ROOT = new URL('../', import.meta.url);
const AHEAD = 2; // the pair that is shown, and the next one
const PAUSES_S = [1, 2, 4, 8, 15, 30];
const ANSWER_S = 15;
const SIGNED_OUT = ['TokenRefused', 'InviteRefused'];

/** The server understood and said no; `kind` is the name of its error. */
export class Refused extends Error {
  constructor({ kind, what }) {
    super(what);
    this.kind = kind;
  }
}

/** No answer, or that of a server in trouble: to be asked again. */
export class Unreachable extends Error {}

export class Desk {
  pairs = []; // before the rater, the shown one first; a pair is `ready` once its images can be painted
  outbox = []; // chosen, not saved
  reason = ''; // why there is no other pair
  reachable = true;
  #working = false;
  #wakers = new Set();
  #emptied = [];

  /** `changed()` is called after every change of the above; `saved(me)` or `refused(error)` once a choice is. */
  constructor({ rater, changed, saved, refused }) {
    Object.assign(this, { changed, saved, refused });
    this.key = `rewardmesh ${ROOT.pathname} ${rater}`;
    this.outbox = this.#read();
  }

  get shown() {
    return this.pairs[0];
  }

  /** Takes a pair in. Its pictures are those that the page has already, or are fetched. */
  take({ expires_in_s, ...pair }, { images, first = false } = {}) {
    const held = { ...pair, until: Date.now() + expires_in_s * 1000, ready: false, images };
    held.images ??= pair.pictures.map((path) => Object.assign(new Image(), { src: new URL(path, ROOT) }));
    this.pairs = first ? [held, ...this.pairs] : [...this.pairs, held];
    this.#decode(held);
    this.changed();
  }

  /** The rater chose: the next pair is shown at once, the choice is saved behind it. */
  choose(choice, look_s) {
    const { lease_id } = this.pairs[0];
    this.pairs = this.pairs.slice(1);
    this.#write([...this.outbox, { lease_id, choice, choice_id: newId(), look_s }]);
    this.changed();
    this.work();
  }

  /** Saves what was chosen, then leases what is missing, until both are done or there is nothing to lease. */
  async work() {
    if (this.#working) return;
    this.#working = true;
    for (let failed = 0, idle = 0; ; ) {
      try {
        await this.#send();
        this.reason = await this.#fill();
        this.reachable = true;
        failed = 0;
      } catch (error) {
        if (SIGNED_OUT.includes(error.kind)) this.#signOut();
        else if (error instanceof Refused || error instanceof Unreachable) this.reachable = false;
        else throw error;
      }
      this.changed();
      if (this.reason === 'signed_out') break;
      if (!this.reachable) await this.#pause(failed++);
      else if (!this.outbox.length) {
        if (this.pairs.length || !this.reason || this.reason === 'done') break;
        await this.#pause(idle++);
      } // else something was chosen meanwhile
    }
    this.#working = false;
  }

  /** Takes the last choice back; how the rater is doing then. Raises Refused, or Unreachable if it is not saved yet. */
  async undo() {
    if (this.outbox.length && this.reachable) await new Promise((done) => this.#emptied.push(done));
    if (this.outbox.length) throw new Unreachable();
    const pair = await this.ask('api/undo', {});
    this.pairs = this.pairs.filter((one) => one.lease_id !== pair.lease_id);
    this.take(pair, { first: true });
    return this.ask('api/me');
  }

  /** Prolongs leases that are half over. */
  renew() {
    const left_ms = (pair) => pair.until - Date.now();
    const due = this.pairs.filter((one) => !one.renewing && left_ms(one) > 0 && left_ms(one) < one.lease_s * 500);
    return Promise.all(due.map((pair) => this.#renew(pair)));
  }

  /** Lets go of pairs whose lease is over, and of all if the shown one is among them: nobody was here. True then. */
  expire() {
    const over = this.shown?.until <= Date.now();
    this.pairs = over ? [] : this.pairs.filter((one) => one.until > Date.now());
    return over;
  }

  /** Whatever waits for its next attempt makes it now. */
  wake() {
    for (const wake of this.#wakers) wake();
  }

  /** One request. Raises Refused or Unreachable. */
  async ask(path, body) {
    let answer;
    let said;
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

  async #send() {
    while (this.outbox.length) {
      const [first] = this.outbox;
      try {
        this.saved((await this.ask('api/choice', first)).me);
      } catch (error) {
        if (!(error instanceof Refused) || SIGNED_OUT.includes(error.kind)) throw error;
        this.refused(error);
      }
      this.#write(this.outbox.filter((one) => one.choice_id !== first.choice_id));
    }
  }

  async #fill() {
    while (this.pairs.length < AHEAD) {
      const have = [...this.pairs, ...this.outbox].map((one) => one.lease_id);
      const said = await this.ask('api/lease', { have });
      if (said.kind !== 'pair') return said.reason;
      this.take(said);
    }
    return '';
  }

  async #decode(pair) {
    for (let failed = 0; !pair.ready && this.pairs.includes(pair); failed++) {
      try {
        await Promise.all(pair.images.map((image) => image.decode()));
        pair.ready = true;
      } catch {
        await this.#pause(failed);
        for (const image of pair.images) image.src = image.src; // loads it again
      }
    }
    this.changed();
  }

  async #renew(pair) {
    pair.renewing = true;
    try {
      pair.until = Date.now() + (await this.ask('api/renew', { lease_id: pair.lease_id })).expires_in_s * 1000;
    } catch (error) {
      if (error instanceof Refused) pair.until = 0; // lost: `expire` finds it
    }
    pair.renewing = false;
  }

  #signOut() {
    this.pairs = [];
    this.reason = 'signed_out';
  }

  #read() {
    try {
      return JSON.parse(localStorage.getItem(this.key) ?? '[]');
    } catch {
      return []; // the browser keeps nothing for this page
    }
  }

  #write(outbox) {
    this.outbox = outbox;
    try {
      localStorage.setItem(this.key, JSON.stringify(outbox));
    } catch {
      // as above: what is chosen is then kept as long as the page is open
    }
    if (!outbox.length) for (const done of this.#emptied.splice(0)) done();
  }

  #pause(attempt) {
    const pause_s = PAUSES_S[Math.min(attempt, PAUSES_S.length - 1)] * (0.75 + Math.random() / 2);
    return new Promise((done) => {
      const wake = () => {
        this.#wakers.delete(wake);
        done();
      };
      this.#wakers.add(wake);
      setTimeout(wake, pause_s * 1000);
    });
  }
}

/** `crypto.randomUUID` is there only on pages that came over https. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
