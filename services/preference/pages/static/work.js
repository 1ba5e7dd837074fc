// The raters' page: shows what the desk has, and takes choices by mouse, touch and keys.

import { Desk, Refused } from './desk.js';

const $ = (selector) => document.querySelector(selector);
const main = $('#desk');
const work = $('#work');
const status = $('#status');
const help = $('#help');
const { mode, rater } = main.dataset;
const minLookMs = main.dataset.minLookS * 1000;
const leaseMs = main.dataset.leaseS * 1000;

work.style.setProperty('--look', `${minLookMs}ms`);

const KEYS = {
  pairs: { ArrowLeft: 'left', 1: 'left', ArrowRight: 'right', 2: 'right', ArrowDown: 'tie', 0: 'tie', ArrowUp: 'both_bad' },
  singles: { ArrowLeft: 'dislike', 1: 'dislike', ArrowRight: 'like', 2: 'like' },
}[mode];
const SMALL = 128; // pixels: below, pictures are shown with their pixels
const STILL_THERE_S = 20;
const OFFLINE = 'No network.';
const HASTY_MS = 350; // the second half of a double click is nobody's choice, and needs no words

let painted; // the pair whose pictures are in the page
let shownAt = performance.now(); // when the shown pair's turn came
let seenFrom; // since when its pictures are there; undefined while they are not
let chosenAt; // of the last choice, for the time to the next pair
let lastActive = Date.now();
let expired = false;
let undoing = false;
let helpOpen = false;

const desk = new Desk({ rater, changed: show, saved: doing, refused });

function show() {
  const pair = expired ? undefined : desk.shown;
  const reason = expired ? 'expired' : pair ? '' : desk.reason || (desk.reachable ? '' : 'offline');
  work.hidden = reason !== '';
  for (const section of document.querySelectorAll('[data-say]')) section.hidden = section.dataset.say !== reason;
  if (reason === 'done' && main.dataset.reason !== 'done' && !desk.outbox.length) location.reload(); // for the code
  if (reason === 'expired') $('[data-again]').focus();
  if (!desk.reachable) say(desk.outbox.length ? `${OFFLINE} Your choice is kept here and sent once it is back.` : OFFLINE);
  else if (status.textContent.startsWith(OFFLINE)) say('The network is back.');
  else if (reason === 'empty') say('Looking again from time to time.');
  if (pair !== painted) begin(pair);
  if (pair?.ready && seenFrom === undefined) paint(pair);
  for (const image of pair?.images ?? []) image.classList.toggle('small', image.naturalWidth <= SMALL);
}

/** Another pair, or none: the old pictures go. */
function begin(pair) {
  painted = pair;
  shownAt = performance.now();
  seenFrom = undefined;
  work.classList.remove('look', 'seen');
  work.ariaBusy = true;
  $('#prompt').textContent = pair?.prompt ?? '';
  const inPage = pair?.images.every((image) => image.isConnected);
  if (!inPage) for (const frame of document.querySelectorAll('.frame')) frame.replaceChildren();
}

/** The pictures are there: the look begins. */
function paint(pair) {
  document.querySelectorAll('.frame').forEach((frame, index) => {
    const image = pair.images[index];
    image.alt = mode === 'pairs' ? `Picture ${index + 1}` : 'The picture';
    image.draggable = false;
    frame.replaceChildren(image);
  });
  seenFrom = performance.now();
  work.ariaBusy = false;
  work.classList.add('look');
  setTimeout(() => painted === pair && work.classList.add('seen'), minLookMs);
  requestAnimationFrame(() => setTimeout(measure));
}

function measure() {
  if (chosenAt !== undefined) performance.measure('choice to next pair', { start: chosenAt });
  chosenAt = undefined;
}

function choose(choice) {
  const now = performance.now();
  if (work.hidden || !painted) return;
  const since = choice === 'skip' ? shownAt : seenFrom;
  if (since === undefined) say('The pictures are still on their way.');
  else if (now - since >= minLookMs) {
    chosenAt = now;
    say('');
    desk.choose(choice, (now - (seenFrom ?? now)) / 1000);
  } else if (now - since > HASTY_MS) say('A moment: look first, then choose.');
}

async function undo() {
  if (undoing) return;
  undoing = true;
  try {
    doing(await desk.undo(), 'Taken back: choose again.');
    expired = false;
    show();
  } catch (error) {
    say(error instanceof Refused ? `${error.message[0].toUpperCase()}${error.message.slice(1)}.` : 'No network: nothing is taken back.');
  }
  undoing = false;
}

function doing(me, words = 'Saved.') {
  $('#count').textContent = me.num_choices;
  $('#pace').textContent = me.pace_per_min ? `${Math.round(me.pace_per_min)} a minute` : '';
  $('#waiting').textContent = `${me.num_waiting} waiting`;
  if (me.num_wanted) $('#progress').value = me.num_choices;
  say(words);
}

function refused(error) {
  say(error.kind === 'LeaseLost' ? 'That came too late: the pair is with someone else, and nothing was counted.' : `Not counted: ${error.message}.`);
}

function say(words) {
  status.textContent = words;
}

function again() {
  expired = false;
  lastActive = Date.now();
  show();
  desk.work();
}

/** Once a second: leases are prolonged while somebody is here, and let go when their time is over. */
function tick() {
  if (document.hidden) return;
  if (Date.now() - lastActive < leaseMs) desk.renew();
  if (desk.expire()) {
    expired = true;
    show();
  }
  const left_s = Math.ceil((desk.shown?.until - Date.now()) / 1000);
  const isShort = left_s <= Math.min(STILL_THERE_S, leaseMs / 2000);
  $('#lease').classList.toggle('short', isShort);
  $('#lease').textContent = expired || !desk.shown ? '' : `${isShort ? 'Still there? Yours for' : 'Yours for'} ${clock(left_s)}`;
}

const clock = (s) => `${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`;

function onKey(event) {
  lastActive = Date.now();
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const choice = key === 's' ? 'skip' : KEYS[key];
  const presses = event.key === 'Enter' && event.target.matches('button');
  if (event.repeat && (choice || presses || 'u?'.includes(key))) event.preventDefault(); // held down: said once
  else if (key === '?') help.togglePopover();
  else if (helpOpen || event.repeat) return;
  else if (key === 'u') undo();
  else if (choice && !work.hidden) {
    event.preventDefault(); // arrows would scroll
    choose(choice);
  }
}

document.addEventListener('keydown', onKey);
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-choice], [data-undo], [data-again]');
  if (!button) return;
  event.preventDefault(); // the form is for browsers without this script
  if (event.detail > 1) return; // the rest of a double click
  if (button.dataset.choice) choose(button.dataset.choice);
  else if ('undo' in button.dataset) undo();
  else again();
});
for (const name of ['pointermove', 'pointerdown', 'scroll']) {
  document.addEventListener(name, () => (lastActive = Date.now()), { passive: true });
}
document.addEventListener('visibilitychange', () => !document.hidden && (tick(), desk.wake()));
window.addEventListener('online', () => desk.wake());
help.addEventListener('toggle', (event) => (helpOpen = event.newState === 'open'));
setInterval(tick, 1000);

const { leaseId, expiresInS } = main.dataset;
if (leaseId && !desk.outbox.some((one) => one.lease_id === leaseId)) {
  const images = [...document.querySelectorAll('.frame img')];
  desk.take(
    { lease_id: leaseId, prompt: $('#prompt').textContent, lease_s: leaseMs / 1000, expires_in_s: Number(expiresInS) },
    { images },
  );
}
desk.work();
