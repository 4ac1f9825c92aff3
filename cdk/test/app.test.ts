import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { test } from 'node:test';
import { packageFolder, tinyZips } from './sample';

/** The app as the CLI starts it: context by variable, output in a folder of its own. */
function run(context: Record<string, unknown>, environment: Record<string, string> = {}) {
  const out = fs.mkdtempSync(path.join(os.tmpdir(), 'leasehold-out-'));
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('LEASEHOLD_')));
  const done = spawnSync(process.execPath, ['--import', 'tsx', 'bin/leasehold.ts'], {
    cwd: packageFolder,
    encoding: 'utf8',
    env: { ...clean, INIT_CWD: packageFolder, CDK_OUTDIR: out, CDK_CONTEXT_JSON: JSON.stringify(context), ...environment },
  });
  const templates = fs.readdirSync(out).filter((name) => name.endsWith('.template.json'));
  fs.rmSync(out, { recursive: true, force: true });
  return { status: done.status, said: done.stderr, templates };
}

test('the file is named by context or by variable', () => {
  const assets = tinyZips();
  const byContext = run({ config: 'cluster.example.toml', assets });
  assert.deepEqual([byContext.status, byContext.templates], [0, ['leasehold.template.json']], byContext.said);
  const byVariable = run({}, { LEASEHOLD_CONFIG: 'cluster.example.toml', LEASEHOLD_ASSETS: assets });
  assert.deepEqual([byVariable.status, byVariable.templates], [0, ['leasehold.template.json']], byVariable.said);
});

test('what a person can put right is told in one message without a stack trace', () => {
  const assets = tinyZips();
  for (const [context, message] of [
    [{}, /^leasehold: which cluster\? name its file: -c config=cluster.toml, or LEASEHOLD_CONFIG=cluster.toml\n$/],
    [{ config: 'nowhere.toml' }, /^leasehold: .*nowhere.toml: 1 problem; nothing was changed\n  cannot be read: .*\n$/],
    [{ config: 'cluster.example.toml', assets: '/nowhere' }, /^leasehold: \/nowhere\/failover.zip is missing: build the functions .*\n$/],
    [{ config: 'cluster.example.toml', assets, architecture: 'riscv' }, /^leasehold: architecture = "riscv": x86_64 or arm64\n$/],
  ] as const) {
    const { status, said, templates } = run(context);
    assert.equal(status, 1);
    assert.match(said, message);
    assert.deepEqual(templates, []);
  }
});
