/**
 * What the stack and the programs it starts have agreed on: environment variables, table keys, the attributes a node
 * may write, event names, the shape of the config item. The list lives in `contract.json` because the Rust side's
 * contract test reads the same file; a name changed on one side only fails a test instead of a failover.
 */
import contract from '../contract.json';

export { contract };

/** The three functions; each is built into `<assets>/<name>.zip` and deployed as `<deployment>-<name>`. */
export type FunctionName = 'failover' | 'watch' | 'configure';

/** The config item's JSON, exactly as the functions parse it: they refuse unknown keys. */
export interface ClusterConfig {
  readonly cluster: string;
  readonly nodes: readonly { readonly name: string; readonly instance: string; readonly priority: number }[];
  readonly virtual_ips: readonly {
    readonly address: string;
    readonly vpc: string;
    /** Every route table that may lead to it: each must, and no other may. */
    readonly route_tables: readonly string[];
    /** Route tables in which a missing route is created; everywhere else only existing routes are changed. */
    readonly create_in: readonly string[];
  }[];
  /** Of the nodes' own addresses: refused by every node but the active one. */
  readonly ports?: { readonly service: readonly number[]; readonly health?: number };
  readonly policy: Readonly<Record<string, number>>;
}
