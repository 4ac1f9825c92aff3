import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { parseConfig } from '../lib/config';
import { LeaseholdStack } from '../lib/leasehold-stack';
import { contract } from '../lib/contract';

export const packageFolder = path.join(__dirname, '..');

/** The file that users start from is the sample of the tests: it cannot rot. */
export const exampleToml = fs.readFileSync(path.join(packageFolder, 'cluster.example.toml'), 'utf8');

/** A folder with a tiny zip for each function: empty archives that differ by their comment, the same bytes each time. */
export function tinyZips(): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'leasehold-zips-'));
  process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
  for (const name of contract.functions) {
    const end = Buffer.alloc(22);
    end.writeUInt32LE(0x06054b50, 0);
    end.writeUInt16LE(name.length, 20);
    fs.writeFileSync(path.join(folder, `${name}.zip`), Buffer.concat([end, Buffer.from(name)]));
  }
  return folder;
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
