import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { App, Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { parseConfig } from '../lib/config';
import { LeaseholdStack } from '../lib/leasehold-stack';
import { contract } from '../lib/contract';

export const packageFolder = path.join(__dirname, '..');

/** The file that users start from is the sample of the tests: it cannot rot. */
export const exampleToml = fs.readFileSync(path.join(packageFolder, 'cluster.example.toml'), 'utf8');

/** A folder with a tiny zip for each function, the same bytes each time. */
export function tinyZips(bootstrap = (name: string): Buffer => Buffer.from(`#!/bin/sh\n# ${name}\n`)): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'leasehold-zips-'));
  process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
  for (const name of contract.functions) {
    fs.writeFileSync(path.join(folder, `${name}.zip`), zipOf('bootstrap', bootstrap(name)));
  }
  return folder;
}

/** A zip with one compressed file, dated nowhen. */
export function zipOf(name: string, content: Buffer): Buffer {
  const packed = deflateRawSync(content);
  const common = Buffer.alloc(26);
  common.writeUInt16LE(20, 0);
  common.writeUInt16LE(8, 4);
  common.writeUInt32LE(crc32(content), 10);
  common.writeUInt32LE(packed.length, 14);
  common.writeUInt32LE(content.length, 18);
  common.writeUInt16LE(name.length, 22);
  const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, Buffer.from(name), packed]);
  const central = Buffer.concat([Buffer.from('PK\x01\x02\x14\x03'), common, Buffer.alloc(14), Buffer.from(name)]);
  central.writeUInt32LE((0o100755 << 16) >>> 0, 38);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(local.length, 16);
  return Buffer.concat([local, central, end]);
}

function crc32(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** The context that the CLI would read from cdk.json. */
export function cliContext(): Record<string, unknown> {
  return JSON.parse(fs.readFileSync(path.join(packageFolder, 'cdk.json'), 'utf8')).context;
}

export function app(more?: { strict?: boolean }): App {
  return new App({
    context: { ...cliContext(), ...(more?.strict && { '@aws-cdk/core:validateAgainstDefaultRules': true }) },
    builtinCloudFormationValidation: more?.strict ?? false,
    outdir: undefined,
    analyticsReporting: false,
  });
}

/** The whole stack for a cluster.toml. */
export function stackOf(toml: string, scope: App = app()): Stack {
  const settings = parseConfig(toml, 'cluster.toml');
  return new LeaseholdStack(scope, settings.deployment, {
    settings,
    assets: tinyZips(),
    architecture: settings.functions.architecture ?? 'x86_64',
  });
}

export function templateOf(toml: string): Template {
  return Template.fromStack(stackOf(toml));
}

export interface Statement {
  readonly Sid?: string;
  readonly Effect: string;
  readonly Action: string | string[];
  readonly Resource: unknown;
  readonly Condition?: Record<string, Record<string, unknown>>;
}

/** The policy statements of the role whose construct path holds `part`. */
export function statementsOf(template: Template, part: string): Statement[] {
  const policies = Object.entries(template.findResources('AWS::IAM::Policy')).filter(([id]) => id.includes(part));
  return policies.flatMap(([, policy]) => policy['Properties'].PolicyDocument.Statement as Statement[]);
}

export function actionsOf(statements: readonly Statement[]): string[] {
  return statements.flatMap((s) => s.Action).sort();
}
