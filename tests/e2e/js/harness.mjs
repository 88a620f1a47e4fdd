// What the tests share. The SDK lives outside the tree; its place is in the environment.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

const major = Number(process.version.slice(1).split('.')[0]);
assert.ok(major >= 24, `the SDK needs node 24, this is ${process.version}`);

const sdk = await import(process.env.SPRITES_JS_SDK);
export const { SpritesClient, APIError, ExecError, FilesystemError } = sdk;

export const client = new SpritesClient(process.env.SPRITE_TOKEN, {
  baseURL: process.env.SPRITES_API_URL,
});

// The sprite that all tests share.
export const shared = client.sprite(process.env.E2E_SPRITE);
export const home = process.env.E2E_HOME;

export const newName = (prefix = 'js') => `${prefix}-${randomBytes(5).toString('hex')}`;

// Makes a sprite of a test's own.
export async function newSprite(t, options) {
  const sprite = await client.createSprite(newName(), options);
  t.after(() => sprite.delete().catch(() => {}));
  return sprite;
}

export async function eventually(what, condition, limitMs = 30_000) {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) assert.fail(`waited ${limitMs} ms in vain: ${what}`);
    await sleep(50);
  }
}

// Collects a spawned command's output; `until` waits for a text in it.
export function collect(command) {
  const output = { stdout: '', stderr: '', messages: [] };
  command.stdout.on('data', (chunk) => { output.stdout += chunk; });
  command.stderr.on('data', (chunk) => { output.stderr += chunk; });
  command.on('message', (message) => output.messages.push(message));
  output.until = (text) => eventually(`${text} in the output`, () => output.stdout.includes(text));
  return output;
}

export function exited(command) {
  return new Promise((resolve, reject) => {
    command.once('exit', resolve);
    command.once('error', reject);
  });
}
