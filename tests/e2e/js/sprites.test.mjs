import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APIError, SpritesClient, client, eventually, newName, newSprite, shared } from './harness.mjs';

test('create echoes every field', async (t) => {
  const options = {
    config: { ramMB: 512, cpus: 1, region: 'here', storageGB: 5 },
    environment: { FROM_CREATE: 'yes', lowerCase: 'kept' },
    urlSettings: { auth: 'public', privateAccess: 'admins' },
    labels: ['b', 'a', 'b'],
    waitForCapacity: true,
    runtime: 'dev',
  };
  const sprite = await newSprite(t, options);
  assert.deepEqual(sprite.config, options.config);
  assert.deepEqual(sprite.environment, options.environment);
  assert.deepEqual(sprite.urlSettings, options.urlSettings);
  assert.deepEqual(sprite.labels, options.labels);
  assert.match(sprite.id, /^sprite-/);
  assert.equal(sprite.organizationName, 'test');
  assert.ok(sprite.createdAt instanceof Date && !Number.isNaN(sprite.createdAt.valueOf()));
  assert.match(sprite.url, /^https?:\/\//);
  const { stdout } = await sprite.execFile('sh', ['-c', 'echo $FROM_CREATE $lowerCase']);
  assert.equal(stdout, 'yes kept\n');
});

test('get returns what create made', async () => {
  const sprite = await client.getSprite(shared.name);
  assert.equal(sprite.name, shared.name);
  assert.ok(['cold', 'warm', 'running'].includes(sprite.status));
});

test('a new sprite runs by itself', async (t) => {
  const { name } = await newSprite(t);
  const sprite = await eventually('it runs', async () => {
    const now = await client.getSprite(name);
    return now.status !== 'cold' && now;
  }, 45_000);
  assert.ok(sprite.lastRunningAt instanceof Date);
});

test('errors carry status and code', async () => {
  await assert.rejects(client.getSprite(newName('none')), (error) => {
    assert.ok(error instanceof APIError);
    assert.equal(error.statusCode, 404);
    assert.equal(error.errorCode, 'sprite not found');
    return true;
  });
  await assert.rejects(client.createSprite(shared.name), (error) => {
    assert.equal(error.statusCode, 409);
    assert.match(`${error.errorCode} ${error.message}`, /already exists/);
    return true;
  });
  await assert.rejects(client.createSprite('Not_A_Name'), { statusCode: 400 });
  const stranger = new SpritesClient('not/a/good/token', { baseURL: client.baseURL });
  await assert.rejects(stranger.getSprite(shared.name), { statusCode: 401, errorCode: 'unauthorized' });
});

test('lists page through everything in order', async (t) => {
  const prefix = newName('page');
  const names = [1, 2, 3].map((i) => `${prefix}-${i}`);
  for (const name of names) {
    const sprite = await client.createSprite(name);
    t.after(() => sprite.destroy());
  }
  const page = await client.listSprites({ prefix, maxResults: 2 });
  assert.deepEqual(page.sprites.map((s) => s.name), names.slice(0, 2));
  assert.equal(page.hasMore, true);
  const rest = await client.listSprites({ prefix, maxResults: 2, continuationToken: page.nextContinuationToken });
  assert.deepEqual(rest.sprites.map((s) => s.name), names.slice(2));
  assert.equal(rest.hasMore, false);
  assert.deepEqual((await client.listAllSprites(prefix)).map((s) => s.name), names);
  assert.equal(page.organizationName, 'test');
  assert.ok(page.running + page.warm + page.cold >= 3);
  assert.ok(Number.isInteger(page.runningLimit));
});

test('a watch tells what is there and what changes', async () => {
  const prefix = newName('watch');
  const first = await client.createSprite(`${prefix}-a`);
  const stream = await client.watchSprites({ prefix });
  const seen = [];
  const statuses = (name) => seen.filter((event) => event.name === name).map((event) => event.status);
  const reading = (async () => {
    for await (const event of stream) seen.push(event);
  })().catch(() => {});
  await eventually('the first sprite is told', () => statuses(first.name).includes('running'), 45_000);
  const second = await client.createSprite(`${prefix}-b`);
  await eventually('the second sprite is told', () => statuses(second.name).includes('running'), 45_000);
  assert.equal(seen.find((event) => event.name).organization.name, 'test');
  await stream.close();
  await reading;
  await first.delete();
  await second.delete();
});

test('update changes only what it names', async (t) => {
  const sprite = await newSprite(t, { labels: ['x'] });
  let updated = await sprite.update({ labels: ['y', 'z'] });
  assert.deepEqual(updated.labels, ['y', 'z']);
  assert.equal(updated.urlSettings.auth, 'sprite');
  updated = await sprite.update({ urlSettings: { auth: 'public' } });
  assert.deepEqual([updated.labels, updated.urlSettings.auth], [['y', 'z'], 'public']);
  await sprite.updateURLSettings({ auth: 'sprite' });
  assert.equal((await client.getSprite(sprite.name)).urlSettings.auth, 'sprite');
  assert.deepEqual((await sprite.update({ labels: [] })).labels, []);
});

test('restart gives the sprite a fresh machine and keeps its files', async (t) => {
  const sprite = await newSprite(t);
  await sprite.execFile('sh', ['-c', 'echo kept > ~/kept; sleep 300 > /dev/null 2>&1 &']);
  const result = await sprite.restart();
  assert.equal(result.spriteName, sprite.name);
  assert.ok(result.machineId && result.message);
  const again = await sprite.restart();
  assert.notEqual(again.machineId, result.machineId);
  const { stdout } = await sprite.execFile('sh', ['-c', 'cat ~/kept']);
  assert.equal(stdout, 'kept\n');
});

test('check tells the health', async () => {
  const check = await shared.check();
  assert.equal(check.spriteName, shared.name);
  assert.equal(check.status, 'healthy');
  assert.ok(check.spriteId && !Number.isNaN(check.checkedAt.valueOf()));
  assert.ok(check.elapsed >= 0);
});

test('upgrade is answered', async () => {
  await shared.upgrade();
});

test('delete frees the name at once', async () => {
  const sprite = await client.createSprite(newName());
  await sprite.delete();
  await assert.rejects(client.getSprite(sprite.name), { statusCode: 404 });
  await assert.rejects(sprite.delete(), { statusCode: 404 });
  const again = await client.createSprite(sprite.name);
  assert.notEqual(again.id, sprite.id);
  await client.deleteSprite(again.name);
});

test('what is not there yet says so', async () => {
  const calls = [
    () => shared.listCheckpoints(),
    () => shared.listServices(),
    () => shared.getNetworkPolicy(),
    () => shared.getPrivilegesPolicy(),
    () => shared.getResourcesPolicy(),
  ];
  for (const call of calls) await assert.rejects(call(), /501|not offer/);
});
