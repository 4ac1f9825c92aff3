import * as fs from 'node:fs';
import { BlockList, isIP } from 'node:net';
import { RetentionDays } from 'aws-cdk-lib/aws-logs';
import { parse, TomlError } from 'smol-toml';
import { contract } from './contract';
import type { Architecture } from './function-zip';
import { nodeRoleName } from './node-access';
import { ConfigError, Fields, TextRule } from './toml-fields';

export { ConfigError } from './toml-fields';

/** cluster.toml, read and checked. */
export interface DeploymentSettings {
  /** Also the name of the stack, the table and the bus. */
  readonly deployment: string;
  /** Where to deploy; without them, wherever the CLI's credentials point. */
  readonly account?: string;
  readonly region?: string;
  readonly table: { readonly deletionProtection: boolean };
  readonly functions: { readonly architecture?: Architecture; readonly logRetentionDays: RetentionDays };
  readonly clusters: readonly ClusterSettings[];
}

export interface ClusterSettings {
  readonly name: string;
  readonly nodes: readonly NodeSettings[];
  readonly virtualIps: readonly VirtualIpSettings[];
  /** Of the nodes' own addresses, answered by the active node alone. */
  readonly ports?: PortSettings;
  /** Whether failover may stop these nodes' instances when an operator asks for it. */
  readonly allowForceStop: boolean;
  /** Only what the file sets: the defaults belong to the programs that use them. */
  readonly policy: Readonly<Record<string, number>>;
}

export interface NodeSettings {
  readonly name: string;
  readonly instance: string;
  readonly eni: string;
  /** Lower goes first when several could take over. */
  readonly priority: number;
}

export interface VirtualIpSettings {
  readonly address: string;
  readonly vpc: string;
  /** Every route table that the functions may change. */
  readonly routeTables: readonly string[];
  /** Those of them in which a missing route is created. */
  readonly createIn: readonly string[];
}

export interface PortSettings {
  /** Where the workload serves. */
  readonly service: readonly number[];
  /** Where the sidecar answers a load balancer's health checks. */
  readonly health?: number;
}

const LABEL = '1 to 40 of a-z, 0-9 and "-", not at the ends';
const label: TextRule = { pattern: /^(?=.{1,40}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, allowed: LABEL };
const deploymentName: TextRule = {
  // The narrowest of what a stack, a table, a bus, a function and a role may be called.
  pattern: /^(?=.{3,40}$)[a-z][a-z0-9-]*[a-z0-9]$/,
  allowed: '3 to 40 of a-z, 0-9 and "-", beginning with a letter, not ending with "-"',
};
const accountId: TextRule = { pattern: /^\d{12}$/, allowed: 'an account id of 12 digits, in quotes' };
const regionName: TextRule = { pattern: /^[a-z]{2}(-[a-z]+)+-\d$/, allowed: 'a Region such as "ap-northeast-1"' };
const instanceId = awsId('i', 'an instance');
const eniId = awsId('eni', 'a network interface');
const vpcId = awsId('vpc', 'a VPC');
const routeTableId = awsId('rtb', 'a route table');
const address: TextRule = {
  pattern: /^[0-9a-fA-F.:]+$/,
  allowed: 'one IPv4 or IPv6 address outside every VPC\'s range, such as "10.99.0.10", without a prefix length',
};
const architectures: readonly Architecture[] = ['x86_64', 'arm64'];
const retentions = Object.values(RetentionDays).filter((days): days is RetentionDays => typeof days === 'number');

/** Reads and checks `file`; throws a ConfigError that names every mistake. */
export function readConfig(file: string): DeploymentSettings {
  let text: string;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (error) {
    throw new ConfigError(file, [`cannot be read: ${(error as Error).message}`]);
  }
  return parseConfig(text, file);
}

export function parseConfig(text: string, file: string): DeploymentSettings {
  let table: Record<string, unknown>;
  try {
    table = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new ConfigError(file, [`not TOML: ${error.message.trimEnd().replaceAll('\n', '\n  ')}`]);
  }
  const problems: string[] = [];
  const fields = new Fields(table, '', problems);

  const deployment = fields.text('deployment', deploymentName);
  const account = fields.optionalText('account', accountId);
  const region = fields.optionalText('region', regionName);
  const tableFields = fields.table('table');
  const deletionProtection = tableFields.flag('deletion_protection') ?? true;
  tableFields.finish();
  const functionFields = fields.table('functions');
  const architecture = functionFields.oneOf('architecture', architectures);
  const logRetentionDays = functionFields.oneOf('log_retention_days', retentions) ?? RetentionDays.ONE_MONTH;
  functionFields.finish();
  const clusterFields = fields.tables('cluster');
  const clusters = clusterFields.map(readCluster);
  fields.finish();

  checkAcrossClusters(deployment, clusters, clusterFields);
  if (clusters.map((c) => c.name).join(',').length > MAX_CLUSTER_NAMES) {
    fields.complain('cluster', `is there ${clusters.length} times: all names together may have ${MAX_CLUSTER_NAMES} characters; make a second deployment`);
  }
  if (problems.length > 0) throw new ConfigError(file, problems);
  return { deployment, account, region, table: { deletionProtection }, functions: { architecture, logRetentionDays }, clusters };
}

function readCluster(fields: Fields): ClusterSettings {
  const name = fields.text('name', label);
  const ttlMs = fields.wholeNumber('ttl_ms', 1, MAX_MS);
  const allowForceStop = fields.flag('allow_force_stop') ?? false;
  const policyFields = fields.table('policy');
  const policy: Record<string, number> = {};
  if (ttlMs !== undefined) policy['ttl_ms'] = ttlMs;
  for (const key of contract.cluster_config.policy_keys) {
    // Only the type is checked here. How the timers must relate is known in one place, the lease crate, which the
    // configure function asks during the deployment: two copies of an inequality would drift apart.
    const value = policyFields.wholeNumber(key, 0, MAX_MS);
    if (value === undefined) continue;
    if (key === 'ttl_ms' && ttlMs !== undefined) policyFields.bad(key, value, 'already set by ttl_ms of the cluster: keep one of the two');
    else policy[key] = value;
  }
  policyFields.finish();

  const nodes = fields.tables('node').map((node, index) => readNode(node, index));
  if (nodes.length < 2 || nodes.length > 3) {
    const often = nodes.length === 1 ? 'once' : `${nodes.length} times`;
    fields.complain('node', `is there ${often}: a cluster has 2 or 3 nodes, each begun by [[cluster.node]]`);
  }
  const virtualIps = fields.tables('virtual_ip').map(readVirtualIp);
  const ports = fields.has('ports') ? readPorts(fields.table('ports')) : undefined;
  fields.finish();
  return { name, nodes, virtualIps, ports, allowForceStop, policy };
}

function readNode(fields: Fields, index: number): NodeSettings {
  const node = {
    name: fields.text('name', label),
    instance: fields.text('instance', instanceId),
    eni: fields.text('eni', eniId),
    // In the order of the file unless it says otherwise.
    priority: fields.wholeNumber('priority', 1, 1000) ?? index + 1,
  };
  fields.finish();
  return node;
}

function readPorts(fields: Fields): PortSettings {
  const service = fields.wholeNumbers('service', 1, 65535);
  const health = fields.wholeNumber('health', 1, 65535);
  if (!fields.has('service') && !fields.has('health')) {
    fields.complain('service', 'is missing: the workload\'s ports, such as [5432]; or health, the port for a load balancer\'s health checks');
  } else if (health !== undefined && service.includes(health)) {
    fields.bad('health', health, 'a port of its own: the sidecar answers there, not the workload');
  }
  fields.finish();
  return { service, health };
}

function readVirtualIp(fields: Fields): VirtualIpSettings {
  const found = fields.text('address', address);
  if (found !== '') {
    const why = whyNotRoutable(found);
    if (why) fields.bad('address', found, why);
  }
  const vpc = fields.text('vpc', vpcId);
  const routeTables = fields.texts('route_tables', routeTableId, 1);
  const createIn = fields.texts('create_in', routeTableId, 0);
  for (const id of createIn) {
    if (!routeTables.includes(id)) fields.bad('create_in', id, 'only route tables that route_tables lists too');
  }
  fields.finish();
  return { address: found, vpc, routeTables, createIn };
}

/** Ids that must be unique over the whole deployment, and names that are made of several and must stay within AWS's limits. */
function checkAcrossClusters(deployment: string, clusters: readonly ClusterSettings[], at: readonly Fields[]): void {
  const once = new Map<string, string>();
  const claim = (fields: Fields, key: string, kind: string, value: string, owner: string, why: string, identity = value): void => {
    if (value === '') return;
    const holder = once.get(`${kind} ${identity}`);
    if (holder === undefined) once.set(`${kind} ${identity}`, owner);
    else fields.bad(key, value, `${why}; ${holder} has it already`);
  };
  clusters.forEach((cluster, index) => {
    const fields = at[index]!;
    claim(fields, 'name', 'cluster', cluster.name, 'another cluster', 'each cluster needs its own name');
    const names = new Set<string>();
    for (const node of cluster.nodes) {
      const owner = `node ${node.name || '?'} of cluster ${cluster.name || '?'}`;
      if (node.name !== '' && names.has(node.name)) fields.bad('node.name', node.name, 'each node of a cluster needs its own name');
      names.add(node.name);
      // An instance carries one instance profile, and a profile speaks for one node only.
      claim(fields, 'node.instance', 'instance', node.instance, owner, 'an instance can be one node only');
      claim(fields, 'node.eni', 'eni', node.eni, owner, 'a network interface belongs to one node only');
    }
    for (const ip of cluster.virtualIps) {
      claim(fields, 'virtual_ip.address', 'address', ip.address, `cluster ${cluster.name}`, 'an address follows one cluster only', canonical(ip.address));
    }
    if (deployment === '' || cluster.name === '') return;
    for (const name of names) {
      if (name === '') continue;
      const role = nodeRoleName(deployment, cluster.name, name);
      if (role.length > MAX_NAME) {
        fields.bad('node.name', name, `the role's name "${role}" has ${role.length} characters, IAM allows ${MAX_NAME}: shorten deployment, cluster or node`);
      }
      // "web-a" + "b" and "web" + "a-b" would both ask for the role "...-web-a-b".
      claim(fields, 'node.name', 'role', name, `node ${name} of cluster ${cluster.name}`, `its role would be called "${role}"`, role);
    }
  });
}

/** A day: longer than any timer of the protocol, short enough to catch a value in microseconds. */
const MAX_MS = 86_400_000;
/** The functions are told the clusters' names in a variable; Lambda allows 4 KB for all variables of a function. */
const MAX_CLUSTER_NAMES = 3000;
/** IAM's limit for the name of a role. */
const MAX_NAME = 64;

function awsId(prefix: string, what: string): TextRule {
  return {
    pattern: new RegExp(`^${prefix}-([0-9a-f]{8}|[0-9a-f]{17})$`),
    allowed: `the id of ${what}, such as "${prefix}-0123456789abcdef0"`,
  };
}

/** Ranges in which AWS routes nothing, or which no route can lead to. */
const unroutable = new BlockList();
for (const [net, bits] of [['0.0.0.0', 8], ['127.0.0.0', 8], ['169.254.0.0', 16], ['224.0.0.0', 3]] as const) {
  unroutable.addSubnet(net, bits, 'ipv4');
}
for (const [net, bits] of [['::', 127], ['fd00:ec2::', 32], ['fe80::', 10], ['ff00::', 8]] as const) {
  unroutable.addSubnet(net, bits, 'ipv6');
}

function whyNotRoutable(text: string): string | undefined {
  const version = isIP(text);
  if (version === 0) return address.allowed;
  if (unroutable.check(text, version === 4 ? 'ipv4' : 'ipv6')) {
    return 'no route can lead there (loopback, link-local, multicast or reserved by AWS); choose one such as "10.99.0.10"';
  }
  return undefined;
}

/** One spelling for each address, so that "fd99::1" and "FD99:0::1" are seen to be the same. */
function canonical(text: string): string {
  return isIP(text) === 6 ? new URL(`http://[${text}]`).hostname : text;
}
